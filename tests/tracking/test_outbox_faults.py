"""What may befall the folders of runs that MLflow has yet to get: damage, kills, and others at work beside."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkouts import PROJECT
from runs import KEY, Training, begin, history, line, through

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.ops.sync import sync_lines
from xtts_finetune.tracking.connection import Store
from xtts_finetune.tracking.outbox import Outbox, ended_outboxes, set_aside

PARKED = f"phase1.{KEY}"


def unplugged(*_: Any, **__: Any) -> None:
    raise ConnectionError("unplugged")


@pytest.fixture
def project(workspace: Workspace) -> Workspace:
    """A workspace that has its params.yaml."""
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    return workspace


@pytest.fixture
def training(store: Store, workspace: Workspace) -> Training:
    """A phase that was stopped, and of which MLflow has no point."""
    training = begin(through(store, unplugged), workspace.work("phase1"))
    training.line(6)
    training.tracker.finish("KILLED")
    return training


def damage(folder: Path) -> Path:
    (folder / "delivery.json").write_text('{"key": "ke')
    return folder


# damage


def test_a_damaged_record_of_a_phase_in_work_is_passed_over(
    workspace: Workspace, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    work = damage(workspace.work("phase1"))
    (work / "DONE").write_text("{}")
    set_aside(workspace)
    [said] = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert str(work / "delivery.json") in said
    assert not workspace.undelivered.exists()


def test_sync_passes_over_a_damaged_record_of_a_parked_run(
    project: Workspace, store: Store, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    parked = damage(Path(shutil.copytree(project.work("phase1"), project.work("phase1").with_name(PARKED))))
    assert list(sync_lines(project)) == ["phase1: 6 points delivered"]
    assert history(store, training.tracker.run_id) == line(6)
    assert f"{parked / 'delivery.json'} is damaged and passed over" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["phase1", PARKED, f"undelivered/{KEY}"])
def test_no_remedy_deletes_a_training(workspace: Workspace, folder: str) -> None:
    place = workspace.root / "work" / folder
    place.mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        Outbox.read(damage(place))
    [problem] = refused.value.problems
    assert (f"rm -r {place}" in problem.remedy) == (place.parent == workspace.undelivered)


@pytest.mark.parametrize(
    "forged",
    [
        *({"key": key} for key in ("", ".", "..", "../../models", "0123", KEY.upper(), 5)),
        {"created": "yesterday"},
        {"created": True},
        {"delivered": ["train/loss"]},
        {"delivered": {"train/loss": "7"}},
        {"tags": {"phase": 1}},
        {"params": None},
        {"order": {"model_name": "voice"}},
        {"dataset": "data"},
    ],
    ids=str,
)
def test_a_record_of_other_types_is_damaged(workspace: Workspace, training: Training, forged: dict[str, Any]) -> None:
    work = workspace.work("phase1")
    content = json.loads((work / "delivery.json").read_text())
    (work / "delivery.json").write_text(json.dumps(content | forged))
    with pytest.raises(UserError, match="is damaged"):
        Outbox.read(work)
    (workspace.undelivered / KEY).mkdir(parents=True)
    shutil.copy(work / "delivery.json", workspace.undelivered / KEY)
    assert list(ended_outboxes(workspace)) == [workspace.undelivered / KEY]


# others at work


@pytest.mark.parametrize("then", ["nothing", "another run"])
def test_a_folder_that_a_trainer_renames_meanwhile_is_not_made_again(
    workspace: Workspace, training: Training, then: str
) -> None:
    work = workspace.work("phase1")
    read = Outbox.read(work)
    work.rename(work.with_name(PARKED))
    if then == "another run":
        begin(unplugged, work, key="f" * 16, uri="http://somewhere").tracker.finish()
    read.save()
    assert work.exists() == (then == "another run")
    if work.exists():
        assert Outbox.read(work).record.key == "f" * 16
