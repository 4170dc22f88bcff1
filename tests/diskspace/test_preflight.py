"""Whether a phase may start: what is said where it may not, and where the next one will not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkouts import PROJECT
from done_runs import done
from small_disks import small_disk

from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.core.disk import free_bytes, shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.preflight import preflight

FAR_TOO_MANY = 10**13  # parameters: 160 TB for a phase
OBJECT = 3_000_000  # bytes that an earlier run left in the cache


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """As after `prepare`, far too large a base, and 3 MB of an earlier run in DVC's cache."""
    for level in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"DVC_{level}_CONFIG_DIR", str(tmp_path / "nowhere"))
    workspace = Workspace(tmp_path / "checkout")
    (workspace.root / ".dvc").mkdir(parents=True)
    shutil.copy(PROJECT / ".dvc" / "config", workspace.root / ".dvc")
    old = workspace.root / ".dvc" / "cache" / "files" / "md5" / "01" / ("23456789" * 4)[:30]
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(OBJECT))
    set_base(workspace, FAR_TOO_MANY)
    return workspace


def set_base(workspace: Workspace, parameters: int) -> None:
    (workspace.prepared / "base").mkdir(parents=True, exist_ok=True)
    write_json(workspace.prepared / "base" / "base.json", {"gpt": {"parameters": parameters, "sha256": "of the base"}})


def make_params(keep_last: int = 1, **phase: Any) -> Params:
    params = load_params(PROJECT / "presets" / "xtts_v2.yaml")
    checkpoints = params.checkpoints.model_copy(update={"keep_last": keep_last})
    changes: dict[str, Any] = {"checkpoints": checkpoints, "train_phase1": params.train_phase1.model_copy(update=phase)}
    return params.model_copy(update=changes)


def refusal(workspace: Workspace, params: Params) -> list[str]:
    """Its lines, spaces made one."""
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(UserError) as refused:
        preflight(workspace, params, "phase1")
    assert sorted(workspace.root.rglob("*")) == before
    return [" ".join(line.split()) for line in str(refused.value).splitlines()]


def test_a_phase_that_does_not_fit_is_refused_with_the_sum_and_what_helps(workspace: Workspace) -> None:
    said = refusal(workspace, make_params(keep_last=3))
    assert said[0] == "phase1 does not fit on the disk"
    assert said[2:7] == [
        "states kept (keep_last) 3 × 120 TB 360 TB",
        "state being written 1 × 120 TB 120 TB",
        "best weights 1 × 40 TB 40 TB",
        "reports, samples, databases 1 × 100 MB 100 MB",
        "needed at the peak 520 TB",
    ]
    assert said[7].startswith("free ")
    assert said[8] == "missing 520 TB"
    freed = shown(OBJECT)
    assert said[9:] == [
        f"remedy: xtts-finetune clean --intermediates --yes frees {freed}",
        f"xtts-finetune clean --best-only --yes frees {freed}",
        "params.yaml: checkpoints.keep_last: 1 saves 240 TB",
        "params.yaml: train_phase1.optim: adamw8bit saves 238 TB",
        "xtts-finetune disk shows what else lies there",
    ]


def test_nothing_is_offered_that_does_not_help(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    said = refusal(workspace, make_params(optim="adamw8bit"))
    assert said[-1] == "remedy: xtts-finetune disk shows what else lies there"


def test_the_phases_own_states_are_no_help(workspace: Workspace) -> None:
    """Deleting an older one frees what the phase then has to write again."""
    for step in (100, 200):
        folder = workspace.work("phase1") / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(os.urandom(2 * OBJECT))
        write_json(folder / "manifest.json", {"files": {"model.safetensors": {"bytes": 2 * OBJECT}}})
    said = refusal(workspace, make_params())
    assert f"remedy: xtts-finetune clean --intermediates --yes frees {shown(OBJECT)}" in said


def test_each_disk_is_helped_by_what_frees_it(workspace: Workspace, tmp_path: Path) -> None:
    """work/ is on a full disk of its own; the earlier run in DVC's cache is on the large one."""
    set_base(workspace, 1_000_000)
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        (workspace.root / "work").symlink_to(disk.root)
        said = refusal(workspace, make_params(keep_last=3))
        assert said[1] == str(disk.root)
        assert [line for line in said if "frees" in line] == []
        assert "remedy: params.yaml: checkpoints.keep_last: 1 saves 24 MB" in said


def test_a_done_phase_needs_no_room(workspace: Workspace) -> None:
    workspace.work("phase1").mkdir(parents=True)
    write_json(workspace.work("phase1") / "DONE", done(make_params()))
    preflight(workspace, make_params(), "phase1")


def test_that_another_trainer_is_at_work_is_for_the_lock_to_say(workspace: Workspace) -> None:
    with locked(workspace.work("phase1")):
        preflight(workspace, make_params(), "phase1")


def test_before_prepare_there_is_nothing_to_ask(workspace: Workspace) -> None:
    shutil.rmtree(workspace.prepared)
    preflight(workspace, make_params(), "phase1")


def test_that_the_next_phase_will_not_fit_is_a_warning(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """With P parameters phase 1 takes 28 P bytes, phase 2 as many beside the 16 P that phase 1 leaves."""
    set_base(workspace, free_bytes(workspace.root) // 36)
    preflight(workspace, make_params(), "phase1")
    warning, *lines = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: phase1 fits on ")
    assert "phase2 after it will not: " in warning
    assert "`xtts-finetune disk` shows what can go" in warning
    labels = [line.split("  ")[2] for line in lines]
    assert labels[:3] == ["states of phase1", "best of phase1", "states kept (keep_last)"]
    assert labels[-1] == "missing"
    preflight(workspace, make_params(), "phase2")  # nothing comes after it
    assert capsys.readouterr().err == ""


def test_where_all_fits_nothing_is_said(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    set_base(workspace, 1_000_000)
    preflight(workspace, make_params(), "phase1")
    assert capsys.readouterr().err == ""
