"""Runs that ended before MLflow had all of them."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import evaluate
from filelock import FileLock
from making.done_runs import summary
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from runs import KEY, Training, begin, history, line, through, unplugged

from xtts_finetune.checkpoints.parking import park
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace, lock_of
from xtts_finetune.tracking.backlog import deliver_backlog, deliver_backlog_aside, set_aside, take_back
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.outbox import Outbox
from xtts_finetune.tracking.registry import versions
from xtts_finetune.tracking.waiting import waiting


@pytest.fixture
def undelivered(store: TrackingStore, workspace: Workspace) -> Training:
    """A done phase of which MLflow has no point."""
    training = begin(through(store, unplugged), workspace.work("phase1"), key=KEY)
    training.line(6)
    training.tracker.finish()
    write_json(workspace.work("phase1") / "DONE", summary())
    return training


def test_what_a_done_phase_has_not_delivered_outlives_its_work(
    store: TrackingStore, workspace: Workspace, undelivered: Training
) -> None:
    set_aside(workspace)
    shutil.rmtree(workspace.work("phase1"))
    assert [(run.key, run.points) for run in waiting(workspace)] == [(KEY, 6)]
    assert list(deliver_backlog(workspace, lambda: store)) == []
    assert history(store, undelivered.tracker.run_id) == line(6)
    assert store.client.get_run(undelivered.tracker.run_id).info.status == "FINISHED"
    assert waiting(workspace) == []
    assert list(workspace.undelivered.iterdir()) == []


def test_what_a_parked_run_waits_with_is_delivered_and_the_run_stays(
    store: TrackingStore, workspace: Workspace
) -> None:
    """It was killed with the server down, and parked: no trainer of its own will deliver."""
    begin(through(store, unplugged), workspace.work("phase1"), key=KEY).line(6)
    folder = park(workspace, "phase1", KEY)
    damaged = workspace.parked_work("phase2", KEY) / "delivery.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert [run.points for run in waiting(workspace)] == [6]
    assert list(deliver_backlog(workspace, lambda: store)) == []
    assert waiting(workspace) == []
    run_id = Outbox.read(folder).record.run_id
    assert history(store, run_id) == line(6)
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_the_thread_beside_a_training_delivers_a_parked_run(store: TrackingStore, workspace: Workspace) -> None:
    begin(through(store, unplugged), workspace.work("phase1"), key=KEY).line(6)
    park(workspace, "phase1", KEY)
    deliver_backlog_aside(workspace, lambda: store)
    for thread in threading.enumerate():
        if thread.name == "mlflow-backlog":
            thread.join(60)
    assert waiting(workspace) == []


def test_a_phase_that_is_extended_takes_its_points_back(
    store: TrackingStore, workspace: Workspace, undelivered: Training
) -> None:
    set_aside(workspace)
    shutil.rmtree(workspace.work("phase1"))
    workspace.work("phase1").mkdir()
    take_back(workspace, "phase1", KEY)
    assert list(workspace.undelivered.iterdir()) == []
    again = begin(store, workspace.work("phase1"), key=KEY)
    again.line(9, first=7)
    again.tracker.finish()
    assert again.tracker.run_id == undelivered.tracker.run_id
    assert history(store, again.tracker.run_id) == line(9)


def test_what_was_kept_before_stays_where_it_is_longer(
    store: TrackingStore, workspace: Workspace, undelivered: Training
) -> None:
    """As when the run began anew with the server still down, and was stopped early."""
    set_aside(workspace)
    (workspace.work("phase1") / "curve.jsonl").unlink()
    again = begin(through(store, unplugged), workspace.work("phase1"), key=KEY)
    again.line(2)
    again.tracker.finish()
    set_aside(workspace)
    assert [(run.key, run.points) for run in waiting(workspace)] == [(KEY, 6)]


def test_a_run_that_has_no_curve_yet_is_kept_by_its_description(workspace: Workspace, undelivered: Training) -> None:
    (workspace.work("phase1") / "curve.jsonl").unlink()
    set_aside(workspace)
    assert [(run.key, run.points) for run in waiting(workspace)] == [(KEY, 0)]


@pytest.mark.parametrize("moved", ["set aside", "taken back"])
def test_nothing_moves_while_another_process_delivers(workspace: Workspace, undelivered: Training, moved: str) -> None:
    """That process deletes the folder at the end, whatever was put there meanwhile."""
    if moved == "taken back":
        set_aside(workspace)
        shutil.rmtree(workspace.work("phase1"))
        workspace.work("phase1").mkdir()
    move = (lambda: set_aside(workspace)) if moved == "set aside" else lambda: take_back(workspace, "phase1", KEY)
    workspace.undelivered.mkdir(exist_ok=True)
    before = sorted(workspace.undelivered.iterdir())
    mover = threading.Thread(target=move)
    with FileLock(lock_of(workspace.undelivered)):
        mover.start()
        mover.join(0.5)
        assert sorted(workspace.undelivered.iterdir()) == before
    mover.join()
    assert sorted(workspace.undelivered.iterdir()) != before


@pytest.mark.usefixtures("undelivered")
def test_a_phase_whose_done_is_damaged_keeps_what_it_has(workspace: Workspace) -> None:
    """It goes on, and delivers it itself."""
    (workspace.work("phase1") / "DONE").write_text("{}")
    set_aside(workspace)
    assert list(workspace.undelivered.glob("*")) == []
    assert [(run.key, run.points) for run in waiting(workspace)] == [(KEY, 6)]


def test_a_delivered_phase_leaves_nothing(store: TrackingStore, workspace: Workspace) -> None:
    training = begin(store, workspace.work("phase1"), key=KEY)
    training.line(6)
    training.tracker.finish()
    write_json(workspace.work("phase1") / "DONE", summary())
    set_aside(workspace)
    assert not workspace.undelivered.exists()


@pytest.mark.parametrize("content", ["{", '{"key": "../../models", "order": null, "dataset": null}'])
def test_a_damaged_or_forged_record_is_named(workspace: Workspace, store: TrackingStore, content: str) -> None:
    (workspace.undelivered / KEY).mkdir(parents=True)
    (workspace.undelivered / KEY / "delivery.json").write_text(content)
    assert waiting(workspace) == []
    with pytest.raises(UserError, match=KEY):
        list(deliver_backlog(workspace, lambda: store))


# evaluations


def test_pending_models_are_registered_as_they_were_then(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    """The newest ends as candidate, and later results in the workspace change nothing of the earlier one."""
    weights = (model / "model.safetensors").read_bytes()
    before = evaluate(workspace, model, created=2)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(b"others")
    then = evaluate(workspace, model, created=3)
    shutil.rmtree(workspace.reports / "samples")
    assert json.loads(workspace.registration.read_text()) == {"pending": True, "model_sha256": then}
    assert {run.registration for run in waiting(workspace)} == {True}
    assert [done.version for done in deliver_backlog(workspace, lambda: store)] == [1, 2]
    assert [(each.tags["model_sha256"], each.aliases) for each in versions(store, "voice")] == [
        (then, ["candidate"]),
        (before, ["champion"]),
    ]
    told = json.loads(workspace.registration.read_text())
    assert (told["version"], told["model_sha256"]) == (2, then)
    first = versions(store, "voice")[1]
    stored = workspace.root / "mlruns" / "artifacts"
    assert (stored / first.run_id / "artifacts" / "samples" / "1.wav").read_bytes() == before.encode()
    assert history(store, first.run_id, "eval/mel_ce") == [(7, 2.5)]
    assert weights in [file.read_bytes() for file in stored.rglob("model.safetensors")]


@pytest.mark.parametrize("step", ["create_run", "log_batch", "log_artifacts", "create_model_version", "set_terminated"])
def test_a_crash_anywhere_is_made_up_for(
    store: TrackingStore, workspace: Workspace, model: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    evaluate(workspace, model, created=2)
    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository if step == "log_artifacts" else store.client, step, crash)
        with pytest.raises(KeyboardInterrupt):
            list(deliver_backlog(workspace, lambda: store))
    assert json.loads(workspace.registration.read_text())["pending"]
    [done] = deliver_backlog(workspace, lambda: store)
    assert (done.version, done.created) == (1, True)
    [run] = store.client.search_runs([store.experiment_id])
    assert history(store, run.info.run_id, "eval/mel_ce") == [(7, 2.5)]
    assert list(workspace.undelivered.iterdir()) == []


def test_figures_are_not_written_to_a_folder_that_a_server_names(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    evaluate(workspace, model, created=2)
    servers = replace(store, artifacts=None)  # as open_store gives it for tracking.uri: http://…
    with pytest.raises(UserError, match="a folder of this machine"):
        list(deliver_backlog(workspace, lambda: servers))
    assert not list((workspace.root / "mlruns").rglob("1.wav"))
    assert [run.registration for run in waiting(workspace)] == [True]
