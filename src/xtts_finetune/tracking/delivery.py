"""The way of a run's points to MLflow: in order, none lost, none doubled, and nothing waits for it.

mlflow takes seconds to import: only inside functions.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from xtts_finetune.core.layout import SAMPLES
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.experiment import furnish
from xtts_finetune.tracking.keyed_runs import NAME_CHARACTERS, cut, key_tags, runs_of
from xtts_finetune.tracking.notes import NOTE, is_ours
from xtts_finetune.tracking.outbox import RUNNING, Outbox, Point, TrackedRun, logged
from xtts_finetune.tracking.pipelines import PARENT, follow, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

BATCH_POINTS = 1000  # what MLflow takes in one log_batch
PARAM_CHARACTERS = 6000  # what MLflow takes in one param
_SAVE_SECONDS = 30  # the cursor on disk is behind by so much at most; who starts anew asks the store itself


class Delivery:
    """One outbox on its way to a store. Raises whatever the store raises; asked again, it goes on from there."""

    def __init__(self, outbox: Outbox, connect: Callable[[], TrackingStore]) -> None:
        self.outbox = outbox
        self._connect = connect
        self._claimed: tuple[TrackingStore, str] | None = None
        self.parent: str | None = None  # the id of the run that this one comes under, once it is claimed
        self._described: str | None = None  # the id of the run that was told all but its points and its end
        self._saved = time.monotonic()

    def claim(self) -> tuple[TrackingStore, str]:
        """The store, and the id in it of the run of this work, which is made if it is not there or was deleted.

        What the store has of the run is the cursor's truth: a kill may have come between a batch and its record,
        an answer may have been lost, or the database may be another one.
        """
        if self._claimed is None:
            store, record = self._connect(), self.outbox.record
            furnish(store)
            self.parent = parent_of(store, record)
            run = find_run(store, record.key) or _create(store, record, self.parent)
            points = logged(run.data.metrics)
            histories = {name: store.client.get_metric_history(run.info.run_id, name) for name in points}
            delivered = {name: max(point.step for point in history) for name, history in histories.items()}
            if self._described != run.info.run_id:
                _describe(store, run, record, _tags(record, self.parent, run))
                if self.parent:
                    follow(store, self.parent)
                self.outbox.change(told="")
                self._described = run.info.run_id
            # rows without a time, and the steps of the machine's figures, count from where the store has its beginning
            self.outbox.change(run_id=run.info.run_id, delivered=delivered, created=run.info.start_time)
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

    def _bring_points(self, store: TrackingStore, run_id: str) -> None:
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

    def _tell(self, store: TrackingStore, run_id: str) -> None:
        from mlflow.entities import Metric, RunTag

        record = self.outbox.record
        if record.told == record.description:
            return
        tags = _tags(record, self.parent, store.client.get_run(run_id))
        # step 0: of equal steps MLflow's tables show the newest, also where a phase that went on is best earlier
        figures = [Metric(name, value, record.ended or record.created, 0) for name, value in record.figures.items()]
        store.client.log_batch(run_id, figures, tags=[RunTag(name, text) for name, text in tags.items()])
        if record.status != RUNNING:
            store.client.set_terminated(run_id, record.status, record.ended)
        if self.parent:
            follow(store, self.parent)
        self.outbox.change(told=record.description)

    def bring_samples(self) -> None:
        """Of a phase whose run is there, what it said while it trained: apart, as the store of files may be another."""
        unheard, run_id = self.outbox.unheard(), self.outbox.record.run_id
        if not unheard or run_id is None:
            return
        store = self._connect()
        repository = store.artifact_repository(store.client.get_run(run_id).info.artifact_uri, run_id, "artifacts")
        for folder in unheard:
            repository.log_artifacts(str(folder), f"{SAMPLES}/{folder.name}")
            known = self.outbox.record.heard
            self.outbox.change(heard={**known, run_id: [*known.get(run_id, ()), folder.name]})


def _batches(points: list[Point]) -> Iterator[list[Point]]:
    for start in range(0, len(points), BATCH_POINTS):
        yield points[start : start + BATCH_POINTS]


def find_run(store: TrackingStore, key: str) -> "Run | None":
    """The run of this key and this workspace; should a lost answer have made two, the older."""
    return next(iter(runs_of(store, key)), None)


def _create(store: TrackingStore, record: TrackedRun, parent: str | None) -> "Run":
    tags = key_tags(store, record.key) | ({PARENT: parent} if parent else {})
    return store.client.create_run(store.experiment_id, record.created, tags, _name(store, record, parent))


def _name(store: TrackingStore, record: TrackedRun, parent: str | None) -> str:
    """The record's, with the beginning of its key where another run beside it has the same."""
    name = cut(record.name)
    if parent is None:
        return name
    beside = store.client.search_runs([store.experiment_id], f"tags.`{PARENT}` = '{parent}'")
    is_taken = any(run.info.run_name == name for run in beside)
    key = f" · {record.key[:6]}"
    return cut(record.name, NAME_CHARACTERS - len(key)) + key if is_taken else name


def _tags(record: TrackedRun, parent: str | None, run: "Run") -> dict[str, str]:
    """Those that the run is to have: a description that somebody wrote into MLflow stays."""
    tags = record.tags | ({PARENT: parent} if parent else {})
    return tags if is_ours(run.data.tags.get(NOTE)) else {name: text for name, text in tags.items() if name != NOTE}


def _describe(store: TrackingStore, run: "Run", record: TrackedRun, tags: dict[str, str]) -> None:
    """Give a new or continued run its status, params and data set. Repeating it changes nothing.

    MLflow never changes a param: a stopping rule that did change since the run began becomes a tag.
    """
    from mlflow.entities import Param, RunTag

    run_id, client = run.info.run_id, store.client
    texts = {name: text[:PARAM_CHARACTERS] for name, text in record.params.items()}
    changed = {name: text for name, text in texts.items() if run.data.params.get(name, text) != text}
    if run.info.status != RUNNING:
        client.update_run(run_id, status=RUNNING)
    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in texts.items() if name not in changed],
        tags=[RunTag(f"now.{name}", text) for name, text in changed.items()]
        + [RunTag(name, text) for name, text in tags.items()],
    )
    if record.dataset and not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=[record.dataset_input()])
