"""What the machine does while a phase is trained: processor, memory, GPUs by MLflow's own monitors, and the disk.

The samples lie in a file of their own beside the curve, which no state and no report has, and go to MLflow with its
points. psutil and mlflow are imported only inside functions.
"""

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import time_ns
from types import TracebackType
from typing import Any, Protocol, Self

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import SYSTEM, Workspace
from xtts_finetune.tracking.curve import Row, append_whole, read_rows

PREFIX = "system/"  # by which MLflow's pages know them
MOST = 2000  # samples that are kept: then every other one goes, and they are taken half as often
_SECONDS = 10.0  # between samples, as MLflow's own; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise
_LEAST = 1.0  # a sample costs some milliseconds
_GPUS = "GPUs"
_INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"


class Monitor(Protocol):
    """As MLflow's are."""

    def collect_metrics(self) -> None: ...

    def aggregate_metrics(self) -> dict[str, float]: ...

    def clear_metrics(self) -> None: ...


class SystemMetrics:
    """Takes samples on another thread, which nothing waits for, as long as the context lasts.

    No failure of it ends the work: it says so once, and there are no more samples.
    """

    def __init__(self, folder: Path, monitors: Iterable[Monitor], began: Callable[[], int], seconds: float) -> None:
        """
        Args:
            folder: of the phase.
            began: when its run did, in ms since the epoch: the samples' steps are the seconds since.
            seconds: between samples, at the least.
        """
        self._path = folder / SYSTEM
        self._monitors = list(monitors)
        self._began = began
        self._seconds = seconds
        self._rows = list(read_rows(self._path))  # of before a stop
        self._unwritten = ""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join(self._seconds)  # a driver that hangs keeps nobody

    def _work(self) -> None:
        try:
            for monitor in self._monitors:  # the first share of a processor's time is of no time, and 0
                monitor.collect_metrics()
                monitor.clear_metrics()
            while not self._is_over.wait(self._seconds):
                self.sample()
        except Exception as error:  # noqa: BLE001 - no driver or library may end a training
            _say(f"no more figures of the machine: {error}")

    def sample(self) -> None:
        """Take one, and keep it."""
        figures = dict[str, float]()
        for monitor in self._monitors:
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        time = time_ns() // 1_000_000
        row = {"step": (time - self._began()) // 1000, "time": time}
        self._keep(row | {f"{PREFIX}{name}": value for name, value in figures.items()})

    def _keep(self, row: Row) -> None:
        self._rows.append(row)
        self._unwritten += json.dumps(row) + "\n"
        try:
            if len(self._rows) > MOST:
                self._rows = self._rows[::2]
                self._seconds *= 2
                write_text(self._path, "".join(json.dumps(each) + "\n" for each in self._rows))
            else:
                with self._path.open("a+b") as stream:
                    append_whole(stream.fileno(), self._unwritten.encode())
            self._unwritten = ""
        except OSError as error:
            if not is_disk_full(error):
                raise


class Disk:
    """Room on the checkout's disk, and on that of work/ where it is another: MLflow's own monitor knows / alone."""

    def __init__(self, workspace: Workspace) -> None:
        root, work = workspace.root, workspace.undelivered.parent
        is_other = root.stat().st_dev != work.stat().st_dev
        self._places = {"disk": root, "disk_of_work": work} if is_other else {"disk": root}
        self._figures: dict[str, float] = {}

    def collect_metrics(self) -> None:
        import psutil

        for name, path in self._places.items():
            usage = psutil.disk_usage(str(path))
            self._figures[f"{name}_usage_percentage"] = usage.percent
            self._figures[f"{name}_usage_megabytes"] = round(usage.used / 1e6, 1)
            self._figures[f"{name}_available_megabytes"] = round(usage.free / 1e6, 1)

    def aggregate_metrics(self) -> dict[str, float]:
        return dict(self._figures)

    def clear_metrics(self) -> None:
        self._figures.clear()


def monitored(workspace: Workspace, folder: Path, began: Callable[[], int]) -> SystemMetrics:
    """Of this machine, for the phase in `folder`."""
    return SystemMetrics(folder, _monitors(workspace), began, _interval())


def _interval() -> float:
    text = os.environ.get(_INTERVAL, "")
    try:
        seconds = float(text) if text else _SECONDS
    except ValueError:
        seconds = math.nan
    if _LEAST <= seconds < threading.TIMEOUT_MAX:
        return seconds
    used = _LEAST if seconds < _LEAST else _SECONDS
    _say(f"a sample every {used:g} s, for {_INTERVAL} is no number of seconds from {_LEAST:g} on: {text!r}")
    return used


def _monitors(workspace: Workspace) -> Iterator[Any]:
    """Those that can be had: a driver or a library of whatever kind costs its own figures at most."""
    for what, make in _makers(workspace):
        try:
            yield make()
        except Exception as error:  # noqa: BLE001 - no driver or library may end a training
            if what != _GPUS or not isinstance(error, RuntimeError):  # by which MLflow says that there is no GPU
                _say(f"no figures of {what}: {error}")


def _makers(workspace: Workspace) -> Iterator[tuple[str, Callable[[], Any]]]:
    def processor() -> Any:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

        return CPUMonitor()

    def gpus() -> Any:
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        return GPUMonitor()

    yield "processor and memory", processor
    yield "the disk", lambda: Disk(workspace)
    yield _GPUS, gpus


def _say(what: str) -> None:
    print(f"tracking: {what}", file=sys.stderr)
