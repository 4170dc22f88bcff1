"""What may befall the folders of runs that MLflow has yet to get: damage, kills, and others at work beside."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import dvc.lock
import pytest
import yaml
from evaluations import evaluate
from filelock import FileLock
from making.done_runs import summary
from making.project import copy_files
from runs import KEY, LateAnswer, Training, begin, history, line, through, unplugged

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import link_tree, write_json
from xtts_finetune.core.layout import Workspace, lock_of
from xtts_finetune.diskspace.parked import delete_parked
from xtts_finetune.ops.sync import sync_lines
from xtts_finetune.report.gathering import gather
from xtts_finetune.report.text import text_of
from xtts_finetune.tracking import backlog
from xtts_finetune.tracking.backlog import deliver_backlog, set_aside
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.outbox import Outbox, ended_outboxes
from xtts_finetune.tracking.registry import versions
from xtts_finetune.tracking.waiting import damaged, waiting

PARKED = f"phase1.{KEY}"


@pytest.fixture
def project(workspace: Workspace) -> Workspace:
    """A workspace that has its params.yaml."""
    copy_files(workspace.root, "params.yaml")
    return workspace


@pytest.fixture
def training(store: TrackingStore, workspace: Workspace) -> Training:
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
    write_json(work / "DONE", summary())
    set_aside(workspace)
    [said] = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert str(work / "delivery.json") in said
    assert not workspace.undelivered.exists()


def test_sync_passes_over_a_damaged_record_of_a_parked_run(
    project: Workspace, store: TrackingStore, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    parked = damage(Path(shutil.copytree(project.work("phase1"), project.work("phase1").with_name(PARKED))))
    assert list(sync_lines(project)) == ["phase1: 6 points delivered"]
    assert history(store, training.tracker.run_id) == line(6)
    assert f"{parked / 'delivery.json'} is damaged and passed over" in capsys.readouterr().err


def test_a_running_run_that_mlflow_refuses_keeps_no_other_back(
    project: Workspace, store: TrackingStore, training: Training
) -> None:
    """The one before it in the order of delivery has a param whose name MLflow does not take."""
    record = project.work("phase1") / "delivery.json"
    other = "f" * 16
    parked = begin(through(store, unplugged), project.work("phase1").with_name(f"phase1.{other}"), key=other)
    parked.line(3)
    parked.tracker.finish("KILLED")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"params": {"a\nb": "1"}}))
    with pytest.raises(UserError, match="not everything is delivered"):
        list(sync_lines(project))
    assert [run.points for run in waiting(project)] == [6]
    assert history(store, parked.tracker.run_id) == line(3)


def test_deleting_a_parked_run_loses_no_point(project: Workspace, store: TrackingStore, training: Training) -> None:
    project.work("phase1").rename(project.work("phase1").with_name(PARKED))
    delete_parked(project, KEY)
    assert [run.points for run in waiting(project)] == [6]
    assert list(sync_lines(project)) == ["phase1: 6 points delivered"]
    assert history(store, training.tracker.run_id) == line(6)


@pytest.mark.parametrize("folder", ["phase1", PARKED, f"undelivered/{KEY}"])
def test_no_remedy_deletes_a_training(workspace: Workspace, folder: str) -> None:
    place = workspace.root / "work" / folder
    place.mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        Outbox.read(damage(place))
    [problem] = refused.value.problems
    assert (f"rm -r {quoted(place)}" in problem.remedy) == (place.parent == workspace.undelivered)


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


def test_what_a_kill_left_half_deleted_is_not_delivered(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    """Its bundle may be gone already, and only its record be left."""
    evaluate(workspace, model, created=2)
    [folder] = workspace.undelivered.iterdir()
    folder.rename(folder.with_name(f".{folder.name}.0-0-0.abcd.tmp"))
    assert list(deliver_backlog(workspace, lambda: store)) == []
    assert versions(store, "voice") == []


@pytest.mark.parametrize("fault", ["missing", "others"])
def test_only_the_weights_that_were_evaluated_are_registered(
    store: TrackingStore, workspace: Workspace, model: Path, fault: str
) -> None:
    evaluate(workspace, model, created=2)
    [weights] = workspace.undelivered.glob("*/bundle/model.safetensors")
    weights.unlink()
    if fault == "others":
        weights.write_bytes(b"others")
    with pytest.raises(UserError, match=r"bundle/model\.safetensors"):
        list(deliver_backlog(workspace, lambda: store))
    assert versions(store, "voice") == []
    assert json.loads(workspace.registration.read_text())["pending"]


def test_links_to_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        link_tree(tmp_path / "gone", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_run_that_cannot_be_delivered_keeps_no_other_back(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    """The damaged one began first, as far as can be told."""
    (workspace.undelivered / KEY).mkdir(parents=True)
    damage(workspace.undelivered / KEY)
    evaluate(workspace, model, created=2)
    registered = []
    with pytest.raises(UserError, match=KEY):
        registered.extend(str(each) for each in deliver_backlog(workspace, lambda: store))
    [version] = versions(store, "voice")
    assert json.loads(workspace.registration.read_text())["version"] == version.version
    assert [folder.name for folder in workspace.undelivered.iterdir()] == [KEY]


def test_what_cannot_be_delivered_is_named_by_sync_and_status(workspace: Workspace) -> None:
    (workspace.undelivered / KEY).mkdir(parents=True)
    damage(workspace.undelivered / KEY)
    copy_files(workspace.root, "params.yaml")
    said = text_of(gather(workspace))
    assert f"{KEY}/delivery.json is damaged" in said
    assert f"rm -r {quoted(workspace.undelivered / KEY)}" in said
    with pytest.raises(UserError, match=rf"{KEY}/delivery\.json"):
        list(sync_lines(workspace))


def test_a_run_of_which_only_the_end_is_missing_waits(
    project: Workspace, store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begin(store, project.work("phase1"))
    training.line(6)
    with monkeypatch.context() as patch:
        patch.setattr(store.client, "set_terminated", unplugged)
        training.tracker.finish("KILLED")
    [left] = waiting(project)
    assert left.points == 0
    assert "mlflow     lacks the tags or the end of a run: xtts-finetune sync" in text_of(gather(project))
    assert list(sync_lines(project)) == ["phase1: tags and status delivered"]
    assert store.client.get_run(training.tracker.run_id).info.status == "KILLED"
    assert waiting(project) == []
    assert list(sync_lines(project)) == ["nothing waits for MLflow"]


def test_dvc_at_work_keeps_no_registration_back(
    project: Workspace, store: TrackingStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dvc.lock goes on to name the receipt of before: what that costs is said, for sync has nothing more to do."""
    out = {"path": "reports/registration.json", "hash": "md5", "md5": "a" * 32, "size": 1}
    project.dvc_lock.write_text(yaml.safe_dump({"stages": {"evaluate": {"outs": [out]}}}), encoding="utf-8")
    (project.root / ".dvc" / "tmp").mkdir(parents=True)
    evaluate(project, model, created=2)
    monkeypatch.setattr(dvc.lock, "DEFAULT_TIMEOUT", 0.1)
    held = dvc.lock.make_lock(str(project.root / ".dvc" / "tmp" / "lock"))
    held.lock()
    said = "\n".join(sync_lines(project))
    held.unlock()
    assert (
        "dvc.lock does not know of it (another command of DVC has it): the next dvc repro evaluates once more" in said
    )
    assert [each.version for each in versions(store, "voice")] == [1]
    assert "a" * 32 in project.dvc_lock.read_text(encoding="utf-8")


def test_a_pending_model_whose_folder_is_gone_must_be_evaluated_again(project: Workspace, model: Path) -> None:
    evaluate(project, model, created=2)
    shutil.rmtree(project.undelivered)
    with pytest.raises(UserError, match="dvc repro -s -f evaluate"):
        list(sync_lines(project))


# others at work


def test_an_upload_beside_it_does_not_change_how_long_a_training_waits(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.05")
    with LateAnswer(store) as connect:
        training = begin(connect, workspace.work("phase1"), uri="http://somewhere")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # as for an upload: 600
        training.tracker.finish()
    assert "no answer in 0.05 s" in capsys.readouterr().err


def test_a_second_deliverer_says_who_is_at_work(
    store: TrackingStore, workspace: Workspace, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(workspace, model, created=2)
    monkeypatch.setattr(backlog, "_LOCK_SECONDS", 0.1)
    with FileLock(lock_of(workspace.undelivered)), pytest.raises(UserError, match="another process that delivers"):
        list(deliver_backlog(workspace, lambda: store))


def test_an_evaluation_is_not_put_beside_a_delivery(workspace: Workspace, model: Path) -> None:
    """It waits: a folder that is being delivered is not replaced, nor its receipt by `pending`."""
    workspace.undelivered.parent.mkdir()
    with FileLock(lock_of(workspace.undelivered)):
        thread = threading.Thread(target=evaluate, args=(workspace, model, 2))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not workspace.undelivered.exists()
    thread.join()
    assert json.loads(workspace.registration.read_text())["pending"]


def test_evaluating_the_same_weights_again_gives_the_same_receipt(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    receipts = []
    for created in 2, 3:
        evaluate(workspace, model, created)
        list(deliver_backlog(workspace, lambda: store))
        receipts.append(workspace.registration.read_bytes())
    assert receipts[0] == receipts[1]


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


def test_a_folder_that_is_delivered_meanwhile_is_no_fault(
    workspace: Workspace, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(workspace, model, created=2)
    [folder] = ended_outboxes(workspace)
    shutil.rmtree(folder)
    monkeypatch.setattr("xtts_finetune.tracking.waiting.ended_outboxes", lambda _: [folder])  # as it was an instant ago
    assert waiting(workspace) == damaged(workspace) == []
