"""Every kind of workspace that tests work in, from what costs nothing to what costs seconds."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import soundfile
import yaml
from checkouts import Checkout

from making.params import ParamsFile, be_quick, make_params
from making.prepared import TEXT, describe_base, list_features, write_features
from making.project import copy_files, copy_project
from making.recordings import BAD_LINES, add_bad_clips, add_samples, noise, write_metadata
from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import BASE_INFO, REFERENCE, Workspace

CLIPS = 24
CONSENT = """\
speaker: A <b>quiz-show</b> host
consents_to: |
  A voice may be trained on these recordings.
  --- Not to be used in adverts.
date: 2026-11-29
licence: CC0-1.0
contact: host@example.org
"""
STUDIO = "voices/studio"  # the folder of a base, relative to the checkout


# As far as files tell: nothing is run to make them.


def configured(root: Path) -> Workspace:
    """DVC's configuration, and nothing else."""
    copy_files(root, ".dvc/config")
    return Workspace(root)


def described(root: Path, parameters: int = 1_000_000) -> Workspace:
    """As after `prepare`, for who reads digests and sizes alone: no feature and no weight is there."""
    workspace = Workspace(root)
    describe_base(workspace, parameters)
    list_features(workspace)
    return workspace


def fresh(root: Path) -> Checkout:
    """As far as `status` can tell, a checkout in which nothing was run."""
    copy_files(root, "params.yaml")
    return Checkout(root)


def unprepared(root: Path) -> Checkout:
    """All that the first stages need but the recordings, and what an earlier run of `prepare` left."""
    checkout = fresh(root)
    (root / "prepared").mkdir()
    (root / "prepared" / "train.jsonl").write_text("of an earlier run")
    return checkout


def tracked(root: Path, empty_database: Path) -> Workspace:
    """With an MLflow store in which nothing was logged: a copy of `empty_database`."""
    workspace = Workspace(root)
    workspace.tracking_db.parent.mkdir(parents=True)
    shutil.copy(empty_database, workspace.tracking_db)
    return workspace


# Of a tiny model.


def tiny(root: Path, **shape: int) -> Workspace:
    """As `prepare` would leave it: a base with a tiny GPT and DVAE of random weights, and features of noise."""
    from making.bases import write_tiny

    workspace = Workspace(root)
    write_features(workspace, write_tiny(workspace, **shape))
    return workspace


def small(root: Path) -> Workspace:
    """A tiny one with all else that `train` and `evaluate` need as processes: 6 steps a phase, every one saved."""
    from xtts_finetune.stages.stops import explained_stops
    from xtts_finetune.tracking.connection import open_store

    workspace = tiny(root)
    params = make_params(save_every_steps=1, keep_last=2, batch_size=3, accumulate=1)
    written = params.model_dump()
    written["train_phase2"] |= {"lr": 5e-4, "schedule": "cosine"}
    written["evaluate"] |= {"sentences": [TEXT], "max_seconds": 0.2}
    written["tracking"] |= {"flush_every_steps": 2}
    workspace.params.write_text(yaml.safe_dump(written), encoding="utf-8")
    soundfile.write(workspace.prepared / REFERENCE, noise(7, 1.0), SAMPLE_RATE)
    write_json(workspace.reports / "dataset.json", {"split_digest": "of the tiny workspace"})
    open_store(workspace, params.tracking)
    with explained_stops(workspace):  # as every stage
        pass
    return workspace


def imported(published: Path) -> Workspace:
    """The workspace whose base/ `published` lies in, with a prepared/base/ imported from it."""
    from xtts_finetune.model.base import Base
    from xtts_finetune.model.importing import import_base

    workspace = Workspace(published.parents[1])
    folder = workspace.prepared / "base"
    folder.mkdir(parents=True)
    info = import_base(published, folder, workspace.root, pinned=False)
    info["gpt"] |= Base(folder, workspace.root).sizes()
    write_json(folder / BASE_INFO, info)
    return workspace


# Checkouts: the project under git and DVC.


def repository(root: Path) -> Checkout:
    """Under git, and nothing in it."""
    root.mkdir(parents=True)
    checkout = Checkout(root)
    checkout.run("git", "init", "--quiet", "--initial-branch", "main")
    return checkout


def cloned(root: Path) -> Checkout:
    """The project's files under git in `root`, without recordings."""
    checkout = repository(root)
    copy_project(root)
    checkout.commit("The project")
    return checkout


def add_data(checkout: Checkout, change: Callable[[ParamsFile], None]) -> None:
    """Its data/ given to DVC, its params.yaml changed."""
    checkout.change_params(change)
    checkout.run("dvc", "add", "--quiet", "data")


def on_a_published_base(root: Path, folder: str, change: Callable[[ParamsFile], None], *lines: str) -> Checkout:
    """A checkout with 12 usable clips, and in its `folder` a base of XTTS v2's form; nothing has been run.

    Args:
        lines: of metadata.csv, in the place of the clips' own.
    """
    from making.bases import write_published

    checkout = cloned(root)
    add_samples(checkout.root / "data", 12)
    if lines:
        write_metadata(checkout.root / "data", lines)
    write_published(checkout.root / folder, sorted((checkout.root / "data" / "wavs").iterdir()))
    add_data(checkout, change)
    return checkout


def studio(root: Path) -> Checkout:
    """One that is quick, in STUDIO."""

    def on_it(params: ParamsFile) -> None:
        be_quick(params)
        params["base"] = f"../{STUDIO}"
        params["train_phase1"]["epochs"] = 1

    return on_a_published_base(root, STUDIO, on_it)


def quick(root: Path) -> Checkout:
    """A checkout with 24 usable clips, the bad ones and consent, all of it committed; nothing has been run."""
    checkout = cloned(root)
    add_samples(checkout.root / "data", CLIPS, *BAD_LINES)
    add_bad_clips(checkout.root / "data")
    (checkout.root / "data" / "consent.yaml").write_text(CONSENT, encoding="utf-8")
    copy_files(checkout.root, "requirements.lock")
    add_data(checkout, be_quick)
    checkout.commit("My voice")
    return checkout


def in_queue(checkout: Checkout, name: str, status: int = 2, copy: str = ".", pid: int | None = None) -> None:
    """As DVC writes down what a task of its queue is, and which process runs it."""
    task = checkout.root / ".dvc" / "tmp" / "exps" / "run" / name / f"{name}.run"
    write_json(task, {"name": name, "status": status, "root_dir": str(checkout.root / copy)})
    write_json(task.with_suffix(".json"), {"pid": os.getpid() if pid is None else pid, "returncode": None})
