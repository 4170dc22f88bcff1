"""A training in this process, without MLflow: begun, stopped at a step, gone on with, and what it ends in."""

import shutil
import signal
from dataclasses import dataclass, field
from typing import Any

import pytest
from making.params import make_params

from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import Stopped
from xtts_finetune.core.files import read_json, sha256_file
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.tracking.curve import Curve, as_text, parse_rows
from xtts_finetune.training.claim import claim
from xtts_finetune.training.interrupts import StopRequest
from xtts_finetune.training.loop import fit
from xtts_finetune.training.phases import Job, publish_outs, summary
from xtts_finetune.training.run import Run
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import Team


@dataclass
class StoppingTracker:
    """Sends the stop request, as a signal would, when it hears of this step."""

    at: int | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.append((step, metrics))
        if step == self.at and "train/loss" in metrics:
            self.stop.signal = signal.SIGTERM


def make_run(
    workspace: Workspace,
    params: Params,
    stop_at: int | None = None,
    name: PhaseName = "phase1",
    record: Record | None = None,
    log_every: int = 1,
) -> Run:
    """A run in a new process's stead: nothing in it comes from the one before."""
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    store.folder.mkdir(parents=True, exist_ok=True)
    curve = Curve(workspace.running_curve(name))
    tracker = StoppingTracker(stop_at)
    job, save_every = Job(workspace, params, name), params.checkpoints.save_every_steps
    share = Share(job.inputs(), Team.alone())
    return Run(share, record or Record(job.identity), store, curve, tracker, save_every, log_every)


def stop_of(run: Run) -> StopRequest:
    assert isinstance(run.tracker, StoppingTracker)
    return run.tracker.stop


def train(
    workspace: Workspace,
    params: Params,
    stop_at: int | None = None,
    name: PhaseName = "phase1",
    is_kept: bool = False,
) -> None:
    """As stages/train.py does, without MLflow; `is_kept`: DVC's cache has the done run in work/."""
    job = Job(workspace, params, name)
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    with store.locked():
        claimed = claim(job, store, lambda: is_kept)
        if not store.done:
            run = make_run(workspace, params, stop_at, name, claimed.record)
            try:
                end = fit(run, claimed.state, stop_of(run))
            finally:
                run.finish_saving()
            store.mark_done(summary(run, claimed.record, end))
        publish_outs(job, store)


class Killed(BaseException):
    """In the place of kill -9, where the point in time matters."""


def interrupt(workspace: Workspace, stop_at: int, **changes: Any) -> CheckpointStore:
    """Train up to a step, as the first of several processes."""
    with pytest.raises(Stopped, match=f"phase1 is saved at step {stop_at}"):
        train(workspace, make_params(**changes), stop_at)
    return store_of(workspace)


def assert_stops_change_nothing(workspace: Workspace, whole: Workspace, **changes: Any) -> dict[str, Any]:
    """A run stopped twice ends as one in `whole`, a copy to be made, that never was; what both end in."""
    shutil.copytree(workspace.root, whole.root)
    train(whole, make_params(**changes))
    for stop_at in (1, 4):
        interrupt(workspace, stop_at, **changes)
    train(workspace, make_params(**changes))
    expected = outcome(whole)
    assert outcome(workspace) == expected
    return expected


def store_of(workspace: Workspace, keep_last: int = 2) -> CheckpointStore:
    return CheckpointStore(workspace.work("phase1"), keep_last)


def outcome(workspace: Workspace, name: PhaseName = "phase1") -> dict[str, Any]:
    """All that must be the same however often a run was interrupted."""
    states = sorted(workspace.checkpoints(name).glob("*/*"))
    curve = Curve(workspace.running_curve(name))
    return {
        "best": sha256_file(workspace.model(name) / "model.safetensors"),
        "last state": {file.name: sha256_file(file) for file in states if file.parent == states[-1].parent},
        "figures": read_json(workspace.metrics(name)),
        "csv": workspace.curve(name).read_text(),
        "curve": list(parse_rows(as_text(curve.rows))),
    }


def rows_of(workspace: Workspace, name: PhaseName = "phase1") -> list[dict[str, Any]]:
    """Of steps and evaluations."""
    return list(parse_rows(as_text(Curve(workspace.running_curve(name)).rows)))
