"""What a phase said while it trained, on the page of its run in MLflow: all of it, once, however it gets there."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from making.done_runs import summary
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from runs import KEY, begin, history, line, through, unplugged

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.backlog import deliver_backlog, set_aside, take_back
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.delivery import waiting
from xtts_finetune.tracking.outbox import Outbox


def say(workspace: Workspace, step: int, text: str = "hello") -> Path:
    folder = workspace.spoken("phase1", step)
    folder.mkdir(parents=True)
    (folder / "1.wav").write_text(text)
    return folder


def heard(store: TrackingStore, run_id: str | None) -> dict[str, list[str]]:
    assert run_id
    folders = [item.path for item in store.client.list_artifacts(run_id, "samples")]
    return {folder: [item.path for item in store.client.list_artifacts(run_id, folder)] for folder in folders}


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were brought to MLflow."""
    folders: list[str] = []
    real = LocalArtifactRepository.log_artifacts

    def log_artifacts(self: Any, local_dir: str, artifact_path: str | None = None) -> None:
        folders.append(Path(local_dir).name)
        real(self, local_dir, artifact_path)

    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", log_artifacts)
    return folders


def test_while_it_trains_each_once(store: TrackingStore, workspace: Workspace, brought: list[str]) -> None:
    training = begin(store, workspace.work("phase1"), flush_every_steps=1)
    half = workspace.work("phase1") / "samples" / ".step-00000005.1-2-01234567.89abcdef.tmp"
    half.mkdir(parents=True)
    with training.tracker as tracker:
        say(workspace, 0)
        step = 0
        while not brought:  # by a flight on the way
            step += 1
            training.log(step, train__loss=1.0)
            time.sleep(0.01)
        say(workspace, 10)
    assert brought == ["step-00000000", "step-00000010"]
    assert heard(store, tracker.run_id) == {
        "samples/step-00000000": ["samples/step-00000000/1.wav"],
        "samples/step-00000010": ["samples/step-00000010/1.wav"],
    }
    with begin(store, workspace.work("phase1")).tracker:
        pass
    assert len(brought) == 2, "a run that goes on brings them once more"


def test_a_database_that_is_another_gets_them_anew(
    store: TrackingStore, workspace: Workspace, brought: list[str]
) -> None:
    say(workspace, 0)
    with begin(store, workspace.work("phase1")).tracker as first:
        pass
    assert first.run_id
    store.client.delete_run(first.run_id)
    with begin(store, workspace.work("phase1")).tracker as second:
        pass
    assert second.run_id != first.run_id
    assert brought == ["step-00000000"] * 2


def test_what_a_server_did_not_take_waits_and_outlives_the_work(
    store: TrackingStore, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    training = begin(through(store, unplugged), workspace.work("phase1"), key=KEY)
    training.line(6)
    say(workspace, 5)
    training.tracker.finish()
    assert "6 points and the samples of 1 steps are not in MLflow" in capsys.readouterr().err
    write_json(workspace.work("phase1") / "DONE", summary())
    set_aside(workspace)
    shutil.rmtree(workspace.work("phase1"))
    assert [run.key for run in waiting(workspace)] == [KEY]
    assert list(deliver_backlog(workspace, lambda: store)) == []
    assert list(heard(store, training.tracker.run_id)) == ["samples/step-00000005"]
    assert history(store, training.tracker.run_id) == line(6)
    assert waiting(workspace) == []


def test_samples_alone_wait_too_and_come_back_with_a_phase_that_is_extended(
    store: TrackingStore, workspace: Workspace
) -> None:
    training = begin(store, workspace.work("phase1"), key=KEY)
    training.line(6)
    training.tracker.finish()
    say(workspace, 5)
    write_json(workspace.work("phase1") / "DONE", summary())
    set_aside(workspace)
    shutil.rmtree(workspace.work("phase1"))
    workspace.work("phase1").mkdir()
    assert [(run.key, run.points) for run in waiting(workspace)] == [(KEY, 0)]
    take_back(workspace, "phase1", KEY)
    assert (workspace.spoken("phase1", 5) / "1.wav").read_text() == "hello"
    with begin(store, workspace.work("phase1"), key=KEY).tracker:
        pass
    assert list(heard(store, training.tracker.run_id)) == ["samples/step-00000005"]


def test_points_do_not_wait_for_samples_that_have_no_place(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", unplugged)
    training = begin(store, workspace.work("phase1"))
    say(workspace, 0)
    with training.tracker as tracker:
        training.line(6)
    assert history(store, tracker.run_id) == line(6)
    assert "0 points and the samples of 1 steps are not in MLflow: unplugged" in capsys.readouterr().err
    assert not Outbox.read(workspace.work("phase1")).is_delivered
