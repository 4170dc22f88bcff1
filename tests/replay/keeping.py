"""Trainings that keep all their states."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from making.params import make_params
from workbench import train

from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params, load_params

KEEPING_ALL: dict[str, Any] = {
    "save_every_steps": 1,
    "keep_last": 100,
    "epochs": 5,  # of 3 steps
    "ema": 0.9,
    "schedule": "cosine",
}


def copied(template: Workspace, root: Path, **changes: Any) -> Workspace:
    """An untrained workspace with these parameters beside KEEPING_ALL."""
    shutil.copytree(template.root, root)
    write_params(Workspace(root), make_params(**{**KEEPING_ALL, **changes}))
    return Workspace(root)


def kept_all(template: Workspace, root: Path, **changes: Any) -> Workspace:
    """The same, with both phases trained, their states in checkpoints/ alone."""
    at = copied(template, root, **changes)
    for phase in PHASES:
        train(at, params_of(at), name=phase)
        shutil.rmtree(at.work(phase))
    return at


def params_of(at: Workspace) -> Params:
    return load_params(at.params)


def write_params(at: Workspace, params: Params) -> None:
    at.params.write_text(yaml.safe_dump(params.model_dump()), encoding="utf-8")
