"""MLflow runs that a killed training continues: one run per unit of work, points buffered and never doubled.

mlflow takes seconds to import: only inside functions.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import DiskFull, Stopped
from xtts_finetune.tracking.connection import Store, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY = "run_key"  # the tag that names a run's unit of work
BATCH_POINTS = 1000  # what MLflow takes in one log_batch
PARAM_CHARACTERS = 6000  # what MLflow takes in one param


def environment_tags(root: Path) -> dict[str, str]:
    """Code and software that a run used: git commit of `root`, python, platform, package versions, or "unknown"."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "mlflow.source.git.commit": commit or "unknown",
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    } | {name: _version(name) for name in ("torch", "coqui-tts", "transformers", "mlflow", "dvc")}


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None without git or outside a repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class _Point:
    key: str
    value: float
    timestamp: int  # ms since the epoch; fixed when the point is made, so that sending it twice stores it once
    step: int


class RunTracker:
    """One MLflow run for one unit of work: a phase, or the evaluation.

    Once started, no failure of the store ends the work: points wait in order for the next flush, anything else is
    reported on stderr. Only a database in the workspace whose disk is full has the work stopped, where it would end
    or when something beside points is to be stored: there is a next start that brings all of it after.
    As a context manager it ends the run as FINISHED, KILLED (stopped, to be continued) or FAILED.
    """

    def __init__(self, store: Store, run_id: str, last_steps: dict[str, int], flush_every_steps: int) -> None:
        self.run_id = run_id
        self._client = store.client
        self._on_this_disk = store.is_local
        self._last_steps = last_steps  # of each metric: logged or buffered
        self._flush_every_steps = flush_every_steps
        self._next_flush = 0  # the first point goes at once, so that a broken store is seen early
        self._pending: list[_Point] = []
        self._failure: Exception | None = None  # why the latest flush stopped
        self._ended = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow-flush")
        self._flight: Future[None] | None = None

    @classmethod
    def start(
        cls,
        store: Store,
        name: str,
        key: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        dataset: tuple[str, str, str] | None,
        flush_every_steps: int,
    ) -> Self:
        """Continue the run of the work `key`, whatever its status, or create it.

        `key` is the work's fingerprint, so equal keys have equal `params`. `dataset` is (name, source, digest of at
        most 36 characters).

        Raises:
            MlflowException: the store refuses.
        """
        client = store.client
        found = client.search_runs([store.experiment_id], f"tags.{RUN_KEY} = '{key}'", max_results=1)
        run = found[0] if found else client.create_run(store.experiment_id, tags={RUN_KEY: key}, run_name=name)
        _describe(client, run, params, tags, dataset)
        histories = {metric: client.get_metric_history(run.info.run_id, metric) for metric in run.data.metrics}
        last_steps = {metric: max(point.step for point in history) for metric, history in histories.items()}
        return cls(store, run.info.run_id, last_steps, flush_every_steps)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Buffer one step's metrics (microseconds); those at steps already logged are dropped.

        Every `flush_every_steps` steps the buffer goes to the store on another thread, one flush at a time.
        """
        self.backfill([(step, metrics)])
        if step >= self._next_flush and (self._flight is None or self._flight.done()):
            self._next_flush = step + self._flush_every_steps
            self._flight = self._worker.submit(self._flush)

    def backfill(self, curve: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Buffer every point of a curve, steps ascending, that is not logged yet: what a kill or a dead server cost."""
        now = int(time.time() * 1000)
        for step, metrics in curve:
            for key, value in metrics.items():
                if step > self._last_steps.get(key, -1):
                    self._last_steps[key] = step
                    self._pending.append(_Point(key, value, now, step))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add to the run's tags.

        Raises:
            DiskFull: the workspace's disk has no room for them.
        """
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._report("tags", lambda: self._client.log_batch(self.run_id, tags=entities))

    def log_artifact_dir(self, local: Path, artifact_path: str) -> None:
        """Copy a folder's files (figures, samples; never weights) into the run's artifacts. Raises as `set_tags`."""
        self._report(artifact_path, lambda: self._client.log_artifacts(self.run_id, str(local), artifact_path))

    def log_artifact(self, file: Path) -> None:
        """Copy one file into the run's artifacts. Raises as `set_tags`."""
        self._report(file.name, lambda: self._client.log_artifact(self.run_id, str(file)))

    def finish(self, status: str = "FINISHED") -> None:
        """Flush and end the run.

        Points that still can't be stored are counted on stderr and the run stays open: the next start with the same
        key can `backfill` them from the curve.

        Raises:
            DiskFull: the workspace's disk has no room for them. Called again, it tries again.
        """
        self._worker.shutdown()
        self._flush()
        if self._pending:
            self._flush()
        if self._pending and self._failure:
            print(
                f"tracking: {len(self._pending)} points are not in MLflow: {reason(self._failure)}\n"
                "  nothing is lost: the curve in reports/ has them, and they are logged when this stage runs again",
                file=sys.stderr,
            )
            self._refuse_full_disk(self._failure)
        else:
            self._report("run status", lambda: self._client.set_terminated(self.run_id, status))
        self._ended = True

    def _flush(self) -> None:
        """Store the buffered points in order; from the first failure on they stay. Runs on one thread at a time,
        while `log` appends: slicing, deleting and appending are atomic.
        """
        from mlflow.entities import Metric

        try:
            while points := self._pending[:BATCH_POINTS]:
                metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
                self._client.log_batch(self.run_id, metrics=metrics)
                del self._pending[: len(points)]
            self._failure = None
        except Exception as error:  # noqa: BLE001 - no store, driver or network may end a training
            if self._failure is None:
                print(f"tracking: MLflow takes no points, keeping them for later: {reason(error)}", file=sys.stderr)
            self._failure = error

    def _report(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - as in _flush
            print(f"tracking: {what} not stored in MLflow: {reason(error)}", file=sys.stderr)
            self._refuse_full_disk(error)

    def _refuse_full_disk(self, error: Exception) -> None:
        if self._on_this_disk and is_disk_full(error):
            raise DiskFull(f"MLflow's database has no room: {reason(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._ended:
            self.finish()
        elif error is not None:
            with suppress(DiskFull):  # `error` says why it ends
                self.finish("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")


def _describe(
    client: "MlflowClient",
    run: "Run",
    params: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: tuple[str, str, str] | None,
) -> None:
    """Give a new or continued run its status, params, tags and data set. Repeating it changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, Param, RunTag

    texts = {name: str(value)[:PARAM_CHARACTERS] for name, value in params.items()}
    assert all(run.data.params.get(name, text) == text for name, text in texts.items()), "the key misses a param"
    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")
    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in texts.items()],
        tags=[RunTag(name, text) for name, text in tags.items()],
    )
    if dataset and not (run.inputs and run.inputs.dataset_inputs):
        name, source, digest = dataset
        described = Dataset(name, digest, source_type="local", source=json.dumps({"uri": source}))
        client.log_inputs(run_id, datasets=[DatasetInput(described)])
