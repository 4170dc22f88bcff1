"""Runs moved aside and back."""

from pathlib import Path
from typing import Any

import pytest
from making.done_runs import summary

from xtts_finetune.checkpoints.identity import Identity, Record
from xtts_finetune.checkpoints.parking import continues, park, parked, record_of, unpark
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace

FIRST = Identity("phase1", {"seed": 42, "train_phase1.lr": 1e-5}, "code")
OTHER = Identity("phase1", {"seed": 42, "train_phase1.lr": 5e-6}, "code")
NEWER = Identity("phase1", FIRST.trajectory, "newer")


def state(record: Record, step: int, best_mel_ce: float) -> dict[str, Any]:
    return {**record.to_json(), "position": {"step": step, "best_mel_ce": best_mel_ce}}


def begin(workspace: Workspace, identity: Identity, *steps: int, best_mel_ce: float = 4.0) -> Path:
    work = workspace.work(identity.phase)
    for step in steps:
        write_json(work / f"step-{step:08d}" / "state.json", state(Record(identity), step, best_mel_ce))
    return work


def end(workspace: Workspace, identity: Identity, step: int) -> None:
    write_json(workspace.work(identity.phase) / "DONE", {**Record(identity).to_json(), **summary(step)})


def test_a_parked_run_is_described(workspace: Workspace) -> None:
    begin(workspace, FIRST, 100, 200)
    folder = park(workspace, "phase1", FIRST.key)
    assert folder == workspace.parked_work("phase1", FIRST.key)
    assert not workspace.work("phase1").exists()
    [run] = parked(workspace)
    assert (run.phase, run.key, run.folder, run.step) == ("phase1", FIRST.key, folder, 200)
    assert run.best_mel_ce == 4.0
    assert run.params == {"train_phase1.lr": 1e-5}
    assert run.bytes > 0


def test_a_done_one_by_its_figures(workspace: Workspace) -> None:
    begin(workspace, FIRST, 100)
    end(workspace, FIRST, 100)
    park(workspace, "phase1", FIRST.key)
    assert [(run.step, run.best_mel_ce) for run in parked(workspace)] == [(100, 3.5)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"position": {"step": Infinity, "best_mel_ce": 1}}',
        '{"position": 5, "format": 2}',
        '{"fingerprint": []}',
    ],
)
def test_a_damaged_one_is_listed_all_the_same(workspace: Workspace, content: str) -> None:
    folder = workspace.parked_work("phase1", "0" * 16)
    (folder / "step-00000100").mkdir(parents=True)
    (folder / "step-00000100" / "state.json").write_text(content)
    (workspace.root / "work" / "phase1.lock").touch()
    (workspace.root / "work" / "phase1.tmp").mkdir()
    [run] = parked(workspace)
    assert (run.step, run.best_mel_ce, run.params) == (0, None, {})
    assert unpark(workspace, FIRST) is None
    assert folder.exists()


def test_without_a_finite_evaluation_there_is_no_best(workspace: Workspace) -> None:
    begin(workspace, FIRST, 100, best_mel_ce=float("inf"))
    park(workspace, "phase1", FIRST.key)
    assert [run.best_mel_ce for run in parked(workspace)] == [None]


def test_it_comes_back_for_its_own_parameters_alone(workspace: Workspace) -> None:
    begin(workspace, FIRST, 100)
    folder = park(workspace, "phase1", FIRST.key)
    assert unpark(workspace, OTHER) is None
    workspace.work("phase1").mkdir()
    assert unpark(workspace, FIRST) == folder
    assert parked(workspace) == []
    record = record_of(workspace.work("phase1"))
    assert record is not None
    assert record.identity == FIRST


def test_without_a_state_it_does_not_come_back(workspace: Workspace) -> None:
    write_json(workspace.work("phase1") / "best-00000100" / "state.json", state(Record(FIRST), 100, 4.0))
    park(workspace, "phase1", FIRST.key)
    assert [run.goes_on for run in parked(workspace)] == [False]
    assert unpark(workspace, FIRST) is None
    begin(workspace, FIRST, 50)
    folder = park(workspace, "phase1", FIRST.key)
    assert unpark(workspace, FIRST) == folder


def test_an_unfinished_run_goes_on_under_newer_code_a_done_one_does_not(workspace: Workspace) -> None:
    work = begin(workspace, FIRST, 100)
    assert continues(work, FIRST)
    assert continues(work, NEWER)
    assert not continues(work, OTHER)
    end(workspace, FIRST, 200)
    assert continues(work, FIRST)
    assert not continues(work, NEWER)
    (work / "DONE").write_text("{}")
    assert continues(work, NEWER), "a damaged DONE is none"
    end(workspace, FIRST, 200)
    park(workspace, "phase1", FIRST.key)
    assert unpark(workspace, NEWER) is None


def test_of_several_the_one_of_this_code_else_the_furthest(workspace: Workspace) -> None:
    for identity, step in ((FIRST, 100), (NEWER, 50), (OTHER, 300)):
        begin(workspace, identity, step)
        park(workspace, "phase1", identity.key)
    assert unpark(workspace, NEWER) == workspace.parked_work("phase1", NEWER.key)
    park(workspace, "phase1", NEWER.key)
    newest = Identity("phase1", FIRST.trajectory, "newest")
    assert unpark(workspace, newest) == workspace.parked_work("phase1", FIRST.key)


def test_nothing_takes_the_place_of_a_parked_run(workspace: Workspace) -> None:
    for step in (100, 200):
        begin(workspace, FIRST, step)
        park(workspace, "phase1", FIRST.key)
    assert sorted((run.key, run.step) for run in parked(workspace)) == [(FIRST.key, 100), (FIRST.key, 200)]
