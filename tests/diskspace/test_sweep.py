"""Freeing room begins with what was held back for later."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.core import files
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace import sweep
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.outbox import new_tracked_run
from xtts_finetune.tracking.waiting import waiting


@pytest.mark.parametrize("runs", [True, False])
def test_the_room_for_its_page_stays_while_a_stage_runs(
    workspace: Workspace, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "refuse_unless_named", lambda *_, **__: None)  # no DVC is asked
    workspace.page_reserve.parent.mkdir(parents=True, exist_ok=True)
    workspace.page_reserve.write_bytes(bytes(1000))
    stage: Any = locked(workspace.work("phase1")) if runs else nullcontext()
    with stage:
        list(sweep.sweep(workspace, Request("best_only")))
    assert workspace.page_reserve.exists() == runs


def begun(workspace: Workspace, *names: str) -> Path:
    """A run that is not done, with these states and bests, and a point that MLflow lacks."""
    work = workspace.work("phase1")
    for name in names:
        write_json(work / name / "manifest.json", {"files": {}})
    Curve(work / "curve.jsonl").append({"step": 1, "epoch": 0, "train/loss": 4.0})
    write_json(work / "delivery.json", asdict(new_tracked_run("0123456789abcdef", "phase1", {}, {})))
    return work


def test_by_force_all_of_an_unfinished_run_goes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its best, too: without a state it would look like damage, over which no phase starts."""
    monkeypatch.setattr(sweep, "refuse_unless_named", lambda *_, **__: None)
    work = begun(workspace, "step-00000014", "best-00000012")
    said = list(sweep.sweep(workspace, Request("best_only", force=True)))
    assert any("its resume point and its best go: the phase will start over" in line for line in said)
    assert not work.exists()
    assert [run.points for run in waiting(workspace)] == [1]


def test_killed_while_it_goes_nothing_of_it_stays_in_its_place(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(path: Path) -> None:
        if path.name != "delivery.json" and "phase1" in path.name:
            raise Killed

    monkeypatch.setattr(sweep, "refuse_unless_named", lambda *_, **__: None)
    work = begun(workspace, "step-00000014", "best-00000012")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "remove", dying)
        patch.setattr(files, "remove", dying)
        with pytest.raises(Killed):
            list(sweep.sweep(workspace, Request("best_only", force=True)))
    assert not work.exists()


def test_best_weights_without_a_state_stay_unless_by_force(workspace: Workspace) -> None:
    begun(workspace, "best-00000012")
    plan, forced = (make_plan(workspace, Request("best_only", force=force)) for force in (False, True))
    assert [kept.why for kept in plan.kept] == ["the best weights of a run that no state is left of (--force)"]
    assert [item.what for item in forced.items] == ["work/phase1"]
