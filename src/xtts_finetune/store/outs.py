"""What dvc.lock says of the workspace."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from xtts_finetune.core.paths import PHASES, PhaseName, Workspace


def cache_folder(workspace: Workspace) -> Path:
    """Where DVC keeps what it tracks, by its configuration of every level."""
    from dvc.config import Config  # a third of a second

    dvc = workspace.root / ".dvc"
    return Path(Config(str(dvc))["cache"].get("dir") or dvc / "cache")


def is_committed(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether dvc.lock names the phase's model as it lies in the workspace (by its size in bytes)."""
    model = workspace.model(phase)
    if not workspace.dvc_lock.exists() or not model.is_dir():
        return False
    stages = yaml.safe_load(workspace.dvc_lock.read_text(encoding="utf-8")).get("stages", {})
    outs: list[dict[str, Any]] = stages.get(f"train_{phase}", {}).get("outs", [])
    size = sum(file.stat().st_size for file in model.iterdir())
    return any(out["path"] == f"models/{phase}" and out["size"] == size for out in outs)


def remove_finished_work(workspace: Workspace) -> None:
    """Delete work/ of every done phase whose outs DVC has taken over: its files live on under other names."""
    for phase in PHASES:
        work = workspace.work(phase)
        if (work / "DONE").exists() and is_committed(workspace, phase):
            shutil.rmtree(work)


def data_digest(workspace: Workspace) -> str:
    """DVC's digest of data/, from data.dvc (at most 36 characters); "untracked" where there is none."""
    if not workspace.data_dvc.exists():
        return "untracked"
    outs = yaml.safe_load(workspace.data_dvc.read_text(encoding="utf-8"))["outs"]
    return str(outs[0]["md5"])
