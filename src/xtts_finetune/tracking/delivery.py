"""The way of a run's points to MLflow: in order, none lost, none doubled, and nothing waits for it.

mlflow takes seconds to import: only inside functions.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import DiskFull, Stopped, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import TIMEOUT, Store, reason
from xtts_finetune.tracking.outbox import RUNNING, Outbox, Point, Record, ended_outboxes, now, running_outboxes

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_KEY = "run_key"  # the tag that names a run's unit of work
BATCH_POINTS = 1000  # what MLflow takes in one log_batch
PARAM_CHARACTERS = 6000  # what MLflow takes in one param
_SAVE_SECONDS = 30  # the cursor on disk is behind by so much at most; who starts anew asks the store itself


@dataclass(frozen=True)
class Waiting:
    """A run of which MLflow lacks something."""

    key: str
    name: str
    points: int
    registration: bool  # whether its model has yet to be registered


def waiting(workspace: Workspace) -> list[Waiting]:
    """What `xtts-finetune sync` would deliver, as far as it can be read. Asks no server."""
    found = []
    for folder in (*ended_outboxes(workspace), *(folder for _, folder in running_outboxes(workspace))):
        with suppress(UserError):  # sync names what is damaged
            outbox = Outbox.read(folder)
            points, record = len(outbox.outstanding()), outbox.record
            if points or record.order:
                found.append(Waiting(record.key, record.name, points, record.order is not None))
    return found


class Delivery:
    """One outbox on its way to a store. Raises whatever the store raises; asked again, it goes on from there."""

    def __init__(self, outbox: Outbox, connect: Callable[[], Store]) -> None:
        self.outbox = outbox
        self._connect = connect
        self._claimed: tuple[Store, str] | None = None
        self._saved = time.monotonic()

    def claim(self) -> tuple[Store, str]:
        """The store, and the id in it of the run of this work, which is made if it is not there or was deleted.

        What the store has of the run is the cursor's truth: a kill may have come between a batch and its record,
        an answer may have been lost, or the database may be another one.
        """
        if self._claimed is None:
            store, record = self._connect(), self.outbox.record
            run = _find_or_create(store, record)
            histories = {name: store.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
            delivered = {name: max(point.step for point in history) for name, history in histories.items()}
            _describe(store, run, record)
            self.outbox.change(run_id=run.info.run_id, delivered=delivered, told="")
            self._claimed = store, run.info.run_id
        return self._claimed

    def bring(self) -> None:
        """Deliver the description and all points up to now; of a run that has ended, its end."""
        try:
            store, run_id = self.claim()
            self._bring_points(store, run_id)
            self._tell(store, run_id)
        except Exception:
            self._claimed = None  # it may have vanished, or a lost answer have been a success
            raise

    def _bring_points(self, store: Store, run_id: str) -> None:
        from mlflow.entities import Metric

        points = self.outbox.outstanding()
        for batch in _batches(points):
            metrics = [Metric(point.metric, point.value, point.timestamp, point.step) for point in batch]
            store.client.log_batch(run_id, metrics=metrics)
            last = {point.metric: point.step for point in batch}
            self.outbox.change(delivered=self.outbox.record.delivered | last)
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                with suppress(OSError):  # a full disk: the next one, or who starts anew, makes up for it
                    self.outbox.save()
                self._saved = time.monotonic()

    def _tell(self, store: Store, run_id: str) -> None:
        from mlflow.entities import RunTag

        record = self.outbox.record
        if record.told == record.description:
            return
        tags = [RunTag(name, text) for name, text in record.tags.items()]
        store.client.log_batch(run_id, tags=tags)
        if record.status != RUNNING:
            store.client.set_terminated(run_id, record.status, record.ended)
        self.outbox.change(told=record.description)


def _batches(points: list[Point]) -> Iterator[list[Point]]:
    for start in range(0, len(points), BATCH_POINTS):
        yield points[start : start + BATCH_POINTS]


def _find_or_create(store: Store, record: Record) -> "Run":
    """The run of the record's key; should a lost answer have made two, the older."""
    client = store.client
    query = f"tags.{RUN_KEY} = '{record.key}'"
    found = client.search_runs([store.experiment_id], query, max_results=1, order_by=["attributes.start_time"])
    if found:
        run: Run = found[0]
        return run
    return client.create_run(store.experiment_id, record.created, {RUN_KEY: record.key}, record.name)


def _describe(store: Store, run: "Run", record: Record) -> None:
    """Give a new or continued run its status, params and data set. Repeating it changes nothing.

    MLflow never changes a param: a stopping rule that did change since the run began becomes a tag.
    """
    from mlflow.entities import Dataset, DatasetInput, Param, RunTag

    run_id, client = run.info.run_id, store.client
    texts = {name: text[:PARAM_CHARACTERS] for name, text in record.params.items()}
    changed = {name: text for name, text in texts.items() if run.data.params.get(name, text) != text}
    if run.info.status != RUNNING:
        client.update_run(run_id, status=RUNNING)
    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in texts.items() if name not in changed],
        tags=[RunTag(f"now.{name}", text) for name, text in changed.items()]
        + [RunTag(name, text) for name, text in record.tags.items()],
    )
    if record.dataset and not (run.inputs and run.inputs.dataset_inputs):
        name, source, digest = record.dataset
        described = Dataset(name, digest, source_type="local", source=json.dumps({"uri": source}))
        client.log_inputs(run_id, datasets=[DatasetInput(described)])


class RunTracker:
    """The MLflow run of a phase that is being trained: its curve goes there on another thread, a flight at a time.

    No failure of a server ends the work, or lets it wait longer than the server's timeout, at the start, in the
    middle or at the end: what is not delivered waits in the outbox. The workspace's own database must take the run as
    it starts; when its disk is full the work is stopped where it would end, and the next start brings all of it.
    As a context manager it ends the run as FINISHED, KILLED (stopped, to be continued) or FAILED.
    """

    def __init__(self, outbox: Outbox, connect: Callable[[], Store], is_local: bool, flush_every_steps: int) -> None:
        self._outbox = outbox
        self._delivery = Delivery(outbox, connect)
        self._is_local = is_local
        self._flush_every_steps = flush_every_steps
        self._next_flush = 0
        self._failure: Exception | None = None  # why the latest flight came to nothing
        self._flight: threading.Thread | None = None
        self._ended = False

    @classmethod
    def start(cls, outbox: Outbox, connect: Callable[[], Store], is_local: bool, flush_every_steps: int) -> Self:
        """Continue the run of the outbox's key, whatever its status, or create it.

        Raises:
            UserError: the workspace's own database is damaged or of another schema.
            MlflowException: it refuses.
        """
        tracker = cls(outbox, connect, is_local, flush_every_steps)
        outbox.save()
        if is_local:
            tracker._delivery.claim()
        else:
            tracker._fly(tracker._delivery.claim)
        return tracker

    @property
    def run_id(self) -> str | None:
        """The run's id; None until the store has answered."""
        return self._outbox.record.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every `flush_every_steps` steps, send what the curve has and the store lacks. The metrics stand in it."""
        if metrics and step >= self._next_flush and not self._is_flying:
            self._next_flush = step + self._flush_every_steps
            self._fly(self._delivery.bring)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add to the run's tags, which are sent when it ends."""
        self._outbox.change(tags={**self._outbox.record.tags, **tags})

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left, and end the run. What a server does not take waits in the outbox.

        Raises:
            DiskFull: the workspace's disk has no room for it. Called again, it tries again.
        """
        self._outbox.change(status=status, ended=now())
        self._land()
        if not self._is_flying:  # else it hangs
            self._fly(self._delivery.bring)
            self._land()
        self._outbox.save()
        if not self._outbox.is_delivered:
            self._report_the_rest()
        self._ended = True

    @property
    def _is_flying(self) -> bool:
        return self._flight is not None and self._flight.is_alive()

    def _fly(self, work: Callable[[], object]) -> None:
        self._flight = threading.Thread(target=self._try, args=(work,), name="mlflow", daemon=True)
        self._flight.start()

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
            self._failure = None
        except Exception as error:  # noqa: BLE001 - no store, driver or network may end a training
            if self._failure is None:
                print(f"tracking: MLflow takes no points, keeping them for later: {reason(error)}", file=sys.stderr)
            self._failure = error

    def _land(self) -> None:
        """Wait for the flight: for the own database, or while a server takes batch after batch."""
        patience = None if self._is_local else float(os.environ[TIMEOUT])
        while self._flight and self._flight.is_alive():
            before = self._outbox.record.delivered
            self._flight.join(patience)
            if self._outbox.record.delivered == before and self._flight.is_alive():
                self._failure = TimeoutError(f"no answer in {patience:g} s")
                return

    def _report_the_rest(self) -> None:
        points, failure = len(self._outbox.outstanding()), self._failure
        why = reason(failure) if failure else "the disk is full"
        print(
            f"tracking: {points} points are not in MLflow: {why}\n"
            "  nothing is lost: they wait in work/, and are delivered by the next stage, or by: xtts-finetune sync",
            file=sys.stderr,
        )
        if self._is_local and failure and is_disk_full(failure):
            raise DiskFull(f"MLflow's database has no room: {why}") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._ended:
            self.finish()
        elif error is not None:
            with suppress(DiskFull, OSError):  # `error` says why it ends
                self.finish("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
