"""What the machine did while a phase was trained."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making.done_runs import summary
from runs import KEY, Training, begin, history, line, through, unplugged
from small_disks import small_disk

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking import system_metrics
from xtts_finetune.tracking.backlog import deliver_backlog, set_aside
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.curve import as_text, read_rows, segments
from xtts_finetune.tracking.system_metrics import Disk, SystemMetrics, monitored
from xtts_finetune.tracking.waiting import waiting


class Rising:
    """A monitor of something that grows."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.value, self.sampled, self.failure = 0.0, threading.Semaphore(0), failure

    def collect_metrics(self) -> None:
        self.value += 1
        self.sampled.release()
        if self.failure:
            raise self.failure

    def aggregate_metrics(self) -> dict[str, float]:
        return {"load": self.value}

    def clear_metrics(self) -> None: ...


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A clock that is a second later at each look."""
    times = iter(range(1_700_000_000_000_000_000, 1_800_000_000_000_000_000, 1_000_000_000))
    monkeypatch.setattr(system_metrics, "time_ns", lambda: next(times))
    return lambda: 1_700_000_000_000


def machine(folder: Path, began: Callable[[], int], seconds: float = 3600) -> SystemMetrics:
    folder.mkdir(parents=True, exist_ok=True)
    return SystemMetrics(folder, [Rising()], began, seconds)


def sampled(training: Training, machine: SystemMetrics, times: int) -> None:
    for _ in range(times):
        machine.sample()
    training.line(3)


def test_samples_go_to_mlflow_beside_the_curve(
    store: TrackingStore, workspace: Workspace, seconds: Callable[[], int]
) -> None:
    training = begin(store, workspace.work("phase1"))
    with training.tracker as tracker:
        sampled(training, machine(workspace.work("phase1"), seconds), 4)
    points = store.client.get_metric_history(tracker.run_id, "system/load")
    assert sorted((point.step, point.value) for point in points) == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]
    assert points[0].timestamp == 1_700_000_000_000
    assert history(store, tracker.run_id) == line(3)


def test_a_real_machine_has_processor_memory_and_the_disk_of_the_workspace(
    store: TrackingStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    folder = workspace.work("phase1")
    training = begin(store, folder)
    with training.tracker as tracker:
        with monitored(workspace, folder, lambda: training.tracker.began):
            while not (folder / "system.jsonl").exists():
                threading.Event().wait(0.01)
        training.line(1)
    given = store.client.get_run(tracker.run_id).data.metrics
    assert {name for name in given if name.startswith("system/")} >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_available_megabytes",
    }


def test_the_disk_is_that_of_the_checkout_and_of_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "checkout", 8_000_000) as disk:
        workspace = Workspace(disk.root)
        with small_disk(disk.root / "work", 4_000_000) as work:
            both = Disk(workspace)
            both.collect_metrics()
            figures = both.aggregate_metrics()
            assert figures["disk_available_megabytes"] == pytest.approx(disk.free / 1e6, abs=0.1)
            assert figures["disk_of_work_available_megabytes"] == pytest.approx(work.free / 1e6, abs=0.1)


def test_neither_states_nor_reports_have_them(
    store: TrackingStore, workspace: Workspace, seconds: Callable[[], int]
) -> None:
    """Curves are compared bit by bit between runs."""
    folder = workspace.work("phase1")
    training = begin(store, folder)
    with training.tracker:
        sampled(training, machine(folder, seconds), 4)
    rows = training.curve.rows
    assert "system" not in as_text(rows) + str(segments(rows)) + (folder / "curve.jsonl").read_text()


def test_with_a_server_that_is_down_for_days_they_take_bounded_room(
    store: TrackingStore, workspace: Workspace, seconds: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_metrics, "MOST", 10)
    folder = workspace.work("phase1")
    training = begin(through(store, unplugged), folder)
    with training.tracker:
        here = machine(folder, seconds)
        sizes = []
        for number in range(100):
            if number == 95:  # stopped, and gone on with
                here = machine(folder, seconds)
            here.sample()
            sizes.append(len(list(read_rows(folder / "system.jsonl"))))
    assert max(sizes) <= 10
    steps = [row["step"] for row in read_rows(folder / "system.jsonl")]
    assert (steps[0], steps[-1]) == (0, 99)  # of all the time, only seldom
    write_json(folder / "DONE", summary())
    set_aside(workspace)
    shutil.rmtree(folder)
    list(deliver_backlog(workspace, lambda: store))
    assert waiting(workspace) == []
    run_id = training.tracker.run_id
    assert [step for step, _ in history(store, run_id, "system/load")] == steps


def test_a_run_that_goes_on_adds_its_own(
    store: TrackingStore, workspace: Workspace, seconds: Callable[[], int]
) -> None:
    folder = workspace.work("phase1")
    for _ in range(2):
        training = begin(store, folder, key=KEY)
        with training.tracker as tracker:
            sampled(training, machine(folder, seconds), 2)
    assert [step for step, _ in history(store, tracker.run_id, "system/load")] == [0, 1, 2, 3]


@pytest.mark.parametrize("failure", [RuntimeError("the driver is gone"), OSError(5, "Input/output error")])
def test_a_monitor_that_fails_ends_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    rising = Rising(failure)
    workspace.work("phase1").mkdir(parents=True)
    with SystemMetrics(workspace.work("phase1"), [rising], lambda: 0, seconds=0.001):
        assert rising.sampled.acquire(timeout=60)
    assert capsys.readouterr().err.count("no more figures of the machine") == 1
    assert rising.value == 1  # it is not asked again


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("abc", 10), ("nan", 10), ("inf", 10), ("0", 1), ("-3", 1), ("0.01", 1), ("2.5", 2.5), ("", 10)],
)
def test_an_interval_that_is_none_ends_nothing(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    seconds: float,
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", typed)
    intervals = list[float]()
    monkeypatch.setattr(system_metrics, "SystemMetrics", lambda *arguments: intervals.append(arguments[-1]))
    monitored(workspace, workspace.work("phase1"), lambda: 0)
    assert intervals == [seconds]
    said = "SAMPLING_INTERVAL is no number of seconds" in capsys.readouterr().err
    assert said == (typed not in ("2.5", ""))


@pytest.mark.parametrize("failure", [ImportError("no pynvml"), OSError("Unknown Error"), RuntimeError("no GPU")])
def test_a_driver_that_fails_at_once_costs_its_own_figures(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    def broken() -> None:
        raise failure

    monkeypatch.setattr("mlflow.system_metrics.metrics.gpu_monitor.GPUMonitor", broken)
    folder = workspace.work("phase1")
    folder.mkdir(parents=True)
    workspace.undelivered.parent.mkdir(parents=True, exist_ok=True)
    machine = monitored(workspace, folder, lambda: 0)
    machine.sample()
    [row] = read_rows(folder / "system.jsonl")
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= row.keys()
    assert capsys.readouterr().err.count("no figures of GPUs") == (not isinstance(failure, RuntimeError))


def test_a_full_disk_costs_no_sample(tmp_path: Path, seconds: Callable[[], int]) -> None:
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        here = machine(disk.root / "phase1", seconds)
        here.sample()
        filler = disk.fill()
        shutil.copyfile(disk.root / "phase1" / "system.jsonl", tmp_path / "before")
        for _ in range(100):  # more than what is left of the file's last page
            here.sample()
        filler.unlink()
        here.sample()
        rows: list[Any] = list(read_rows(disk.root / "phase1" / "system.jsonl"))
        assert [row["system/load"] for row in rows] == [float(number) for number in range(1, 103)]
