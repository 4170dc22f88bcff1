"""What a phase said while it trained, on the page of its run in MLflow: all of it, once, however it gets there."""

import os
import shutil
import threading
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
from xtts_finetune.tracking.outbox import Outbox
from xtts_finetune.tracking.waiting import waiting


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


def test_each_database_gets_them(store: TrackingStore, workspace: Workspace, brought: list[str]) -> None:
    """Also one that is come back to: here the run was deleted, another was made, and the first was restored."""
    client, ids = store.client, []
    for step in (0, 10, 20):
        say(workspace, step)
        with begin(store, workspace.work("phase1")).tracker as tracker:
            pass
        ids.append(str(tracker.run_id))
        if step == 0:
            client.delete_run(ids[0])
        elif step == 10:
            client.delete_run(ids[1])
            client.restore_run(ids[0])
    assert ids[0] == ids[2] != ids[1]
    assert list(heard(store, ids[1])) == ["samples/step-00000000", "samples/step-00000010"]
    assert list(heard(store, ids[0])) == ["samples/step-00000000", "samples/step-00000010", "samples/step-00000020"]
    assert len(brought) == 5, "none twice"


def test_points_go_on_while_samples_hang(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, waited_for = threading.Event(), []
    real = LocalArtifactRepository.log_artifacts

    def wait(self: Any, *given: Any) -> None:
        if not hangs.wait(20):
            waited_for.append(given)
        real(self, *given)

    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", wait)
    training = begin(store, workspace.work("phase1"), flush_every_steps=1)
    with training.tracker as tracker:
        say(workspace, 0)
        for step in range(1, 200):
            training.log(step, train__loss=step / 2)
            time.sleep(0.01)
            if len(history(store, tracker.run_id)) > 5:
                break
        assert heard(store, tracker.run_id) == {}
        assert len(history(store, tracker.run_id)) > 5
        hangs.set()
    assert list(heard(store, tracker.run_id)) == ["samples/step-00000000"]
    assert waited_for == []


def test_a_store_of_files_that_takes_none_is_asked_no_more_than_there_are_samples(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def refuse(_: Any, folder: str, *__: Any) -> None:
        asked.append(Path(folder).name)
        unplugged()

    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", refuse)
    training = begin(store, workspace.work("phase1"), flush_every_steps=1)
    say(workspace, 0)
    with training.tracker as tracker:
        for step in range(1, 30):
            training.log(step, train__loss=step / 2)
            time.sleep(0.005)
    assert asked == ["step-00000000"] * 2, "at once, and at the end"
    assert history(store, tracker.run_id) == line(29)
    said = capsys.readouterr().err
    assert "MLflow takes no samples, keeping them for later: unplugged" in said
    assert "takes no points" not in said


def test_what_a_server_did_not_take_waits_and_outlives_the_work(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifacts", unplugged)
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


def test_a_kill_on_the_way_back_loses_none(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifacts", unplugged)
        training = begin(through(store, unplugged), workspace.work("phase1"), key=KEY)
        training.line(6)
        for step in (0, 5):
            say(workspace, step)
        training.tracker.finish()
    write_json(workspace.work("phase1") / "DONE", summary())
    set_aside(workspace)
    shutil.rmtree(workspace.work("phase1"))
    workspace.work("phase1").mkdir()
    link = os.link

    def killed(source: Path, target: Path, **given: Any) -> None:
        if Path(source).parent.name == "step-00000005":
            raise KeyboardInterrupt
        link(source, target, **given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "link", killed)
        take_back(workspace, "phase1", KEY)
    take_back(workspace, "phase1", KEY)
    assert [(workspace.spoken("phase1", step) / "1.wav").exists() for step in (0, 5)] == [True, True]
