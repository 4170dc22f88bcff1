import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from runs import DATASET, KEY, LateAnswer, begin, history, line, through, unplugged

from xtts_finetune.core.errors import DiskFull, Stopped
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.delivery import Delivery
from xtts_finetune.tracking.outbox import Outbox
from xtts_finetune.tracking.waiting import waiting

OTHER = "fedcba9876543210"


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.work("phase1")


# the run


def test_a_run_carries_its_params_tags_and_data(store: TrackingStore, folder: Path) -> None:
    training = begin(store, folder, epochs=3, sentence="x" * 9000, target=None)
    with training.tracker as tracker:
        tracker.set_tags({"best_step": "7"})
    run = store.client.get_run(tracker.run_id)
    assert run.data.params == {"epochs": "3", "sentence": "x" * 6000, "target": "None"}
    assert (run.data.tags["phase"], run.data.tags["best_step"]) == ("phase1", "7")
    assert (run.info.run_name, run.info.status) == ("phase1", "FINISHED")
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("data", DATASET[2])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (Stopped("disk"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (ValueError("bug"), "FAILED"),
    ],
)
def test_the_run_says_how_the_work_ended(
    store: TrackingStore, folder: Path, error: BaseException | None, status: str
) -> None:
    training = begin(store, folder)

    def work() -> None:
        with training.tracker:
            training.log(1, train__loss=0.5)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert store.client.get_run(training.tracker.run_id).info.status == status
    assert history(store, training.tracker.run_id) == line(1)


def test_nan_and_inf_are_stored(store: TrackingStore, folder: Path) -> None:
    training = begin(store, folder)
    with training.tracker as tracker:
        training.log(1, train__loss=math.nan, train__grad_norm=math.inf)
    assert math.isnan(history(store, tracker.run_id)[0][1])
    assert history(store, tracker.run_id, "train/grad_norm")[0][1] > 1e300


def test_more_points_than_a_batch_holds(store: TrackingStore, folder: Path) -> None:
    training = begin(store, folder, flush_every_steps=10_000)
    with training.tracker as tracker:
        training.curve.rows.extend({"step": step, "epoch": 0, "train/loss": value} for step, value in line(2500))
    assert history(store, tracker.run_id) == line(2500)


# resuming


@pytest.mark.parametrize("ended", [None, Stopped("signal"), ValueError("bug"), "finished"])
@pytest.mark.parametrize("cursor", ["kept", "lost", "behind"])
def test_the_same_work_continues_its_run_without_a_doubled_step(
    store: TrackingStore, folder: Path, ended: Any, cursor: str
) -> None:
    first = begin(store, folder, lr=0.1)
    behind = (folder / "delivery.json").read_bytes()
    first.line(8)
    first.log(8, eval__mel_ce=3.0)
    if isinstance(ended, Exception):
        first.tracker.__exit__(type(ended), ended, None)
    else:
        first.tracker.finish()
    if ended is None:  # as a kill leaves it
        store.client.update_run(first.tracker.run_id, status="RUNNING")
    if cursor == "behind":
        (folder / "delivery.json").write_bytes(behind)
    elif cursor == "lost":
        (folder / "delivery.json").unlink()
    second = begin(store, folder, lr=0.1)
    second.curve.resume(4, second.curve.rows[:4])
    with second.tracker:
        assert store.client.get_run(second.tracker.run_id).info.status == "RUNNING"
        for step, value in line(12, first=5):
            second.log(step, time=1_800_000_000_000 + step, train__loss=value)
        second.log(8, eval__mel_ce=3.0)
        second.log(12, eval__mel_ce=2.0)
    assert second.tracker.run_id == first.tracker.run_id
    assert history(store, first.tracker.run_id) == line(12)
    assert history(store, first.tracker.run_id, "eval/mel_ce") == [(8, 3.0), (12, 2.0)]
    assert len(store.client.get_run(first.tracker.run_id).inputs.dataset_inputs) == 1


def test_other_work_and_deleted_runs_get_a_new_run_with_all_points(store: TrackingStore, folder: Path) -> None:
    """Another run had these points already: under retrained code that is another key."""
    first = begin(store, folder)
    first.line(8)
    first.tracker.finish()
    other = begin(store, folder, key=OTHER)
    other.tracker.finish()
    assert other.tracker.run_id != first.tracker.run_id
    assert history(store, other.tracker.run_id) == line(8)
    store.client.delete_run(other.tracker.run_id)
    again = begin(store, folder, key=OTHER)
    again.tracker.finish()
    assert again.tracker.run_id not in (first.tracker.run_id, other.tracker.run_id)
    assert history(store, again.tracker.run_id) == line(8)


def test_in_a_new_database_the_run_is_made_anew_with_all_points(
    store: TrackingStore, folder: Path, tracking: TrackingParams, tmp_path: Path
) -> None:
    first = begin(store, folder)
    first.line(8)
    first.tracker.finish()
    elsewhere = Workspace(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    other = open_store(elsewhere, tracking)
    second = begin(other, folder)
    second.line(12, first=9)
    second.tracker.finish()
    assert history(other, second.tracker.run_id) == line(12)


def test_a_run_that_vanishes_under_way_is_made_anew_with_all_points(store: TrackingStore, folder: Path) -> None:
    training = begin(store, folder, flush_every_steps=1)
    training.line(4)
    before = training.tracker.run_id
    store.client.delete_run(before)
    training.line(8, first=5)
    training.tracker.finish()
    if not Outbox.read(folder).is_delivered:  # the last flight was the one that met it
        training = begin(store, folder)
        training.tracker.finish()
    assert training.tracker.run_id != before
    assert history(store, training.tracker.run_id) == line(8)


def test_a_changed_stopping_rule_continues_the_run(store: TrackingStore, folder: Path) -> None:
    begin(store, folder, epochs=3).tracker.finish()
    with begin(store, folder, epochs=5).tracker as tracker:
        pass
    run = store.client.get_run(tracker.run_id)
    assert (run.data.params["epochs"], run.data.tags["now.epochs"]) == ("3", "5")


def test_tags_say_from_which_step_another_commit_trained(store: TrackingStore, folder: Path) -> None:
    begin(store, folder, tags={"git_commit": "a"}).tracker.finish()
    begin(store, folder, tags={"git_commit": "b"}, step=4).tracker.finish()
    with begin(store, folder, tags={"git_commit": "c"}, step=6).tracker as tracker:
        pass
    tags = store.client.get_run(tracker.run_id).data.tags
    assert (tags["git_commit"], tags["git_commit_from_step_4"], tags["git_commit_from_step_6"]) == ("a", "b", "c")


def test_a_damaged_record_costs_no_point(store: TrackingStore, folder: Path) -> None:
    first = begin(store, folder)
    first.line(8)
    first.tracker.finish()
    (folder / "delivery.json").write_text('{"key": "ke')
    second = begin(store, folder)
    second.line(12, first=9)
    second.tracker.finish()
    assert history(store, second.tracker.run_id) == line(12)
    assert second.tracker.run_id == first.tracker.run_id


# a store that is slow or fails


def test_logging_does_not_wait_for_the_store(store: TrackingStore, folder: Path) -> None:
    opened = threading.Event()
    flushes: list[int] = []

    def gate(metrics: Any) -> None:
        flushes.append(len(metrics))
        assert opened.wait(60)

    training = begin(through(store, gate), folder)
    training.line(100)
    assert len(flushes) <= 1  # one in flight, and it has not come back
    opened.set()
    training.tracker.finish()
    assert history(store, training.tracker.run_id) == line(100)


def test_a_failed_flight_keeps_its_points_and_says_so_once(
    store: TrackingStore, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = 0

    def gate(metrics: Any) -> None:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise ConnectionError("no route to host\nlong dump")

    training = begin(through(store, gate), folder, flush_every_steps=1)
    last = 0
    while failures < 3:
        last += 1
        training.log(last, train__loss=last / 2)
        time.sleep(0.001)
    training.tracker.finish()
    assert history(store, training.tracker.run_id) == line(last)
    error = capsys.readouterr().err
    assert (error.count("no route to host"), "long dump" in error) == (1, False)


def test_an_answer_that_was_lost_doubles_nothing(store: TrackingStore, folder: Path) -> None:
    """The store took the batch, and the connection broke before it said so."""
    broken = []

    class Lost:
        def log_batch(self, run_id: str, metrics: Any = (), **others: Any) -> None:
            store.client.log_batch(run_id, metrics=metrics, **others)
            if metrics and not broken:
                broken.append(len(metrics))
                raise ConnectionError("reset by peer")

        def __getattr__(self, name: str) -> Any:
            return getattr(store.client, name)

    client: Any = Lost()
    training = begin(replace(store, client=client), folder, flush_every_steps=1000)
    with training.tracker:
        training.line(7)
        while not broken:
            time.sleep(0.001)
    assert history(store, training.tracker.run_id) == line(7)


def test_points_that_cannot_be_stored_are_counted_and_wait(
    store: TrackingStore, folder: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    training = begin(through(store, unplugged), folder, flush_every_steps=1000)
    with training.tracker as tracker:
        training.line(7)
    assert "7 points are not in MLflow: unplugged" in capsys.readouterr().err
    assert store.client.get_run(tracker.run_id).info.status == "RUNNING"
    [left] = waiting(workspace)
    assert (left.key, left.points, left.registration) == (KEY, 7, False)
    Delivery(Outbox.read(folder), lambda: store).bring()
    assert history(store, tracker.run_id) == line(7)
    assert store.client.get_run(tracker.run_id).info.status == "FINISHED"


def full(*_: Any) -> None:
    raise MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]")


def test_a_full_disk_stops_the_work_at_its_end(
    store: TrackingStore, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a next start then, which brings the points after. Until the end they wait."""
    gate = [full]
    training = begin(through(store, lambda points: gate[0](points)), folder, flush_every_steps=1)
    with training.tracker as tracker:
        training.line(5)
        with pytest.raises(DiskFull, match=r"MLflow's database has no room: .*database or disk is full$"):
            tracker.finish()
        gate[0] = lambda points: None  # somebody made room
        tracker.finish()
    assert history(store, tracker.run_id) == line(5)
    assert store.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert capsys.readouterr().err.count("5 points are not in MLflow") == 1


def test_a_full_disk_does_not_hide_why_the_work_ended(store: TrackingStore, folder: Path) -> None:
    training = begin(through(store, full), folder)
    with pytest.raises(ZeroDivisionError), training.tracker:
        training.log(1, train__loss=0.5)
        raise ZeroDivisionError


def test_a_servers_full_disk_stops_nothing(
    store: TrackingStore, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = begin(lambda: replace(through(store, full), uri="http://somewhere"), folder, uri="http://somewhere")
    with training.tracker:
        training.log(1, train__loss=0.5)
    assert "1 points are not in MLflow" in capsys.readouterr().err


def test_a_server_that_hangs_at_the_start_keeps_nobody_waiting(
    store: TrackingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.05")
    with LateAnswer(store) as connect:
        training = begin(connect, folder, uri="http://somewhere", flush_every_steps=1)
        training.line(5)
        training.tracker.finish()
        assert "5 points are not in MLflow: no answer in 0.05 s" in capsys.readouterr().err


def test_a_parked_runs_record_moves_with_its_folder(store: TrackingStore, folder: Path, workspace: Workspace) -> None:
    training = begin(through(store, unplugged), folder, key=KEY)
    with training.tracker:
        training.line(3)
    shutil.move(folder, folder.with_name(f"phase1.{KEY}"))
    [left] = waiting(workspace)
    assert (left.key, left.points) == (KEY, 3)
