import math
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from xtts_finetune.core.errors import DiskFull, Stopped
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import Store
from xtts_finetune.tracking.delivery import RunTracker, environment_tags

DATASET = ("data", "data/", "a" * 32 + ".dir")


def start(store: Store, key: str = "key", flush_every_steps: int = 5, **params: object) -> RunTracker:
    return RunTracker.start(store, "phase1", key, params, {"phase": "phase1"}, DATASET, flush_every_steps)


def history(store: Store, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, key))


def line(last: int, first: int = 1) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in range(first, last + 1)]


class Client:
    """The real client, but metrics pass a gate first."""

    def __init__(self, store: Store, gate: Any) -> None:
        self._client, self._gate = store.client, gate

    def log_batch(self, run_id: str, metrics: Any = (), **others: Any) -> None:
        if metrics:
            self._gate(metrics)
        self._client.log_batch(run_id, metrics=metrics, **others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def through(store: Store, gate: Any) -> Store:
    client: Any = Client(store, gate)
    return replace(store, client=client)


# the run


def test_a_run_carries_its_params_tags_and_data(store: Store) -> None:
    with start(store, epochs=3, sentence="x" * 9000, target=None) as tracker:
        tracker.set_tags({"best_step": "7"})
    run = store.client.get_run(tracker.run_id)
    assert run.data.params == {"epochs": "3", "sentence": "x" * 6000, "target": "None"}
    assert (run.data.tags["phase"], run.data.tags["best_step"]) == ("phase1", "7")
    assert (run.info.run_name, run.info.status) == ("phase1", "FINISHED")
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("data", DATASET[2])


def test_artifacts_of_the_run_lie_in_the_workspace(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curve.svg").write_text("<svg/>")
    with start(store) as tracker:
        tracker.log_artifact_dir(tmp_path / "figures", "figures")
        tracker.log_artifact(tmp_path / "figures" / "curve.svg")
    stored = workspace.root / "mlruns" / "artifacts" / tracker.run_id / "artifacts"
    assert (stored / "figures" / "curve.svg").read_text() == (stored / "curve.svg").read_text() == "<svg/>"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (Stopped("disk"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (ValueError("bug"), "FAILED"),
    ],
)
def test_the_run_says_how_the_work_ended(store: Store, error: BaseException | None, status: str) -> None:
    def work() -> None:
        with tracker:
            tracker.log(1, {"train/loss": 0.5})
            if error:
                raise error

    tracker = start(store)
    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert store.client.get_run(tracker.run_id).info.status == status
    assert history(store, tracker.run_id) == line(1)


def test_nan_and_inf_are_stored(store: Store) -> None:
    with start(store) as tracker:
        tracker.log(1, {"train/loss": math.nan, "train/grad_norm": math.inf})
    assert math.isnan(history(store, tracker.run_id)[0][1])
    assert history(store, tracker.run_id, "train/grad_norm")[0][1] > 1e300


def test_more_points_than_a_batch_holds(store: Store) -> None:
    with start(store, flush_every_steps=10_000) as tracker:
        tracker.backfill((step, {"train/loss": value}) for step, value in line(2500))
    assert history(store, tracker.run_id) == line(2500)


# resuming


@pytest.mark.parametrize("ended", [None, Stopped("signal"), ValueError("bug"), "finished"])
def test_the_same_work_continues_its_run_without_a_doubled_step(store: Store, ended: Any) -> None:
    first = start(store, lr=0.1)
    for step, value in line(8):
        first.log(step, {"train/loss": value})
    first.log(8, {"eval/mel_ce": 3.0})
    if isinstance(ended, Exception):
        first.__exit__(type(ended), ended, None)
    else:
        first.finish()
    if ended is None:  # as a kill leaves it
        store.client.update_run(first.run_id, status="RUNNING")
    with start(store, lr=0.1) as second:
        assert store.client.get_run(second.run_id).info.status == "RUNNING"
        for step, value in line(12, first=5):
            second.log(step, {"train/loss": value})
        second.log(8, {"eval/mel_ce": 3.0})
        second.log(12, {"eval/mel_ce": 2.0})
    assert second.run_id == first.run_id
    assert history(store, first.run_id) == line(12)
    assert history(store, first.run_id, "eval/mel_ce") == [(8, 3.0), (12, 2.0)]
    assert len(store.client.get_run(first.run_id).inputs.dataset_inputs) == 1


def test_other_work_and_deleted_runs_get_a_new_run(store: Store) -> None:
    with start(store) as first, start(store, key="other") as other:
        assert first.run_id != other.run_id
    store.client.delete_run(first.run_id)
    with start(store) as again:
        assert again.run_id != first.run_id


def test_a_key_that_misses_a_param_is_a_bug(store: Store) -> None:
    start(store, lr=0.1).finish()
    with pytest.raises(AssertionError):
        start(store, lr=0.2)


# a store that is slow or fails


def test_logging_does_not_wait_for_the_store(store: Store) -> None:
    opened = threading.Event()
    flushes: list[int] = []

    def gate(metrics: Any) -> None:
        flushes.append(len(metrics))
        assert opened.wait(60)

    tracker = start(through(store, gate))
    for step, value in line(100):
        tracker.log(step, {"train/loss": value})
    assert len(flushes) <= 1  # one in flight, and it has not come back
    opened.set()
    tracker.finish()
    assert history(store, tracker.run_id) == line(100)


def test_a_failed_flush_keeps_its_points_and_says_so_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    failures = 0

    def gate(metrics: Any) -> None:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise ConnectionError("no route to host\nlong dump")

    tracker = start(through(store, gate), flush_every_steps=1)
    last = 0
    while failures < 3:
        last += 1
        tracker.log(last, {"train/loss": last / 2})
        time.sleep(0.001)
    tracker.finish()
    assert history(store, tracker.run_id) == line(last)
    error = capsys.readouterr().err
    assert (error.count("no route to host"), "long dump" in error) == (1, False)


def test_points_that_cannot_be_stored_are_counted_and_backfilled(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def gate(metrics: Any) -> None:
        calls.append(len(metrics))
        raise ConnectionError("disk full")

    with start(through(store, gate), flush_every_steps=1000) as tracker:
        tracker.backfill((step, {"train/loss": value}) for step, value in line(7))
    assert calls == [7, 7]  # the flush at the end, and one retry
    assert "7 points are not in MLflow: disk full" in capsys.readouterr().err
    assert store.client.get_run(tracker.run_id).info.status == "RUNNING"
    with start(store) as again:
        again.backfill((step, {"train/loss": value}) for step, value in line(7))
    assert again.run_id == tracker.run_id
    assert history(store, tracker.run_id) == line(7)


def full(*_: Any) -> None:
    raise MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]")


def test_a_full_disk_stops_the_work_at_its_end(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a next start then, which brings the points after. Until the end they wait."""
    gate = [full]
    with start(through(store, lambda points: gate[0](points)), flush_every_steps=1) as tracker:
        for step, value in line(5):
            tracker.log(step, {"train/loss": value})
        with pytest.raises(DiskFull, match=r"MLflow's database has no room: .*database or disk is full$"):
            tracker.finish()
        gate[0] = lambda points: None  # somebody made room
        tracker.finish()
    assert history(store, tracker.run_id) == line(5)
    assert store.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert capsys.readouterr().err.count("5 points are not in MLflow") == 1


def test_a_full_disk_stops_what_is_no_point_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(store) as tracker:
        with monkeypatch.context() as patch:
            patch.setattr(store.client, "log_batch", lambda *_, **__: full())
            patch.setattr(store.client, "set_terminated", full)
            with pytest.raises(DiskFull):
                tracker.set_tags({"best_step": "7"})
            with pytest.raises(DiskFull):
                tracker.finish()
        tracker.set_tags({"best_step": "7"})
    assert store.client.get_run(tracker.run_id).data.tags["best_step"] == "7"
    assert store.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_full_disk_does_not_hide_why_the_work_ended(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), start(through(store, full)) as tracker:
        tracker.log(1, {"train/loss": 0.5})
        raise ZeroDivisionError


def test_a_servers_full_disk_stops_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with start(replace(through(store, full), uri="http://somewhere")) as tracker:
        tracker.log(1, {"train/loss": 0.5})
    assert "1 points are not in MLflow" in capsys.readouterr().err


def test_a_failure_beside_the_points_ends_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with start(store) as tracker:
        store.client.delete_run(tracker.run_id)
        tracker.set_tags({"best_step": "7"})
    assert "tracking: tags not stored in MLflow" in capsys.readouterr().err


# the environment


def test_environment_tags_of_a_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code").write_text("1")
    git("add", "code")
    git("commit", "-m", "x")
    tags = environment_tags(tmp_path)
    assert len(tags["git_commit"]) == 40
    assert tags["mlflow.source.git.commit"] == tags["git_commit"]
    assert (tags["git_dirty"], tags["mlflow"]) == ("false", "3.17.2")
    (tmp_path / "code").write_text("2")
    assert environment_tags(tmp_path)["git_dirty"] == "true"


def test_environment_tags_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_tags(tmp_path)["git_commit"] == "unknown"
    monkeypatch.setenv("PATH", "")
    tags = environment_tags(Path.cwd())
    assert (tags["git_commit"], tags["git_dirty"]) == ("unknown", "unknown")
