"""The run in MLflow that the phases and evaluations of a pipeline come under, a row for each pipeline.

Whoever is delivered first makes it. What it shows is made of its children each time that one of them was told
something: in whatever order they come, and however often, it ends the same. mlflow takes seconds to import: only inside
functions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from xtts_finetune.core.layout import PHASES
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.keyed_runs import cut, key_tags, runs_of
from xtts_finetune.tracking.notes import NOTE, is_ours, pipeline_note
from xtts_finetune.tracking.outbox import BEST, RUNNING, TrackedRun, now

if TYPE_CHECKING:
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"  # by this tag MLflow's UI shows a run under another one
PIPELINE, EVALUATE = "pipeline", "evaluate"  # values of the tag `phase`, beside the phases' names
REGISTERED = "registered"  # the tag of an evaluation and its pipeline with the version's number
_LOCK_SECONDS = 60
_OF_THE_BEST = ("best", REGISTERED)  # tags that a pipeline has from its best evaluation
_LIMIT = 1000  # children that are looked at, the newest


def parent_of(store: TrackingStore, record: TrackedRun) -> str | None:
    """The id of the run that a record's run comes under, which is made if it is not there or was deleted.

    Of two that a lost answer has made the older stays, and takes the other's children.

    Raises:
        TimeoutError: another process of this workspace has been at it for a minute.
    """
    pipeline = record.pipeline
    if pipeline is None:
        return None
    with _alone(store):
        runs = runs_of(store, pipeline.key)
        if not runs:
            tags = {**pipeline.tags, **key_tags(store, pipeline.key), "phase": PIPELINE}
            runs = [store.client.create_run(store.experiment_id, record.created, tags, cut(pipeline.name))]
        parent, *doubles = runs
        for double in doubles:
            for child in _children(store, double.info.run_id):
                store.client.set_tag(child.info.run_id, PARENT, parent.info.run_id)
            store.client.delete_run(double.info.run_id)
        _describe(store, parent, record)
    parent_id: str = parent.info.run_id
    return parent_id


def follow(store: TrackingStore, parent_id: str) -> None:
    """Let a pipeline's run show what its children do by now. Repeating it changes nothing.

    Raises:
        TimeoutError: as of `parent_of`.
    """
    from mlflow.entities import Metric, RunTag

    with _alone(store):
        run, summary = store.client.get_run(parent_id), Summary.of(_children(store, parent_id))
        known, time = run.data, now()
        # step 0: of equal steps MLflow's tables show the newest
        changed = {name: value for name, value in summary.figures.items() if known.metrics.get(name) != value}
        metrics = [Metric(name, value, time, 0) for name, value in changed.items()]
        tags = {name: text for name, text in summary.tags.items() if known.tags.get(name) != text}
        if not is_ours(known.tags.get(NOTE)):
            tags.pop(NOTE, None)
        if metrics or tags:
            store.client.log_batch(parent_id, metrics, tags=[RunTag(name, text) for name, text in tags.items()])
        if summary.status == RUNNING != run.info.status:
            store.client.update_run(parent_id, status=RUNNING)
        elif summary.status != RUNNING and (summary.status, summary.ended) != (run.info.status, run.info.end_time):
            store.client.set_terminated(parent_id, summary.status, summary.ended)


@dataclass(frozen=True)
class Summary:
    """What a pipeline's children come to."""

    status: str
    ended: int | None  # ms since the epoch
    figures: dict[str, float]  # base/mel_ce, phase1/mel_ce … best/text_ce, in nats per token
    tags: dict[str, str]

    @classmethod
    def of(cls, children: list["Run"]) -> Self:
        """Of runs, the newest first."""
        best = min((run for run in children if _phase(run) == EVALUATE), key=_mel_ce, default=None)
        phases = [run for run in children if _phase(run) in PHASES]
        figures = {f"{_phase(run)}{name.removeprefix(BEST)}": value
                   for run in sorted(phases, key=_mel_ce, reverse=True)
                   for name, value in run.data.metrics.items() if name.startswith(f"{BEST}/")}  # fmt: skip
        tags = {}
        if best and math.isfinite(_mel_ce(best)):
            named = (BEST, "base", *PHASES)
            figures |= {name: value for name, value in best.data.metrics.items() if name.partition("/")[0] in named}
            tags = {name: best.data.tags[name] for name in _OF_THE_BEST if name in best.data.tags}
        ended = max(children, key=lambda run: run.info.end_time or 0, default=None)
        is_running = ended is None or any(run.info.status == RUNNING for run in children)
        status = RUNNING if is_running or ended is None else ended.info.status
        told = [(run.info.run_name, run.data.metrics[f"{BEST}/mel_ce"], run.data.metrics.get(f"{BEST}/text_ce"))
                for run in reversed(phases) if f"{BEST}/mel_ce" in run.data.metrics]  # fmt: skip
        note = pipeline_note(status, figures, tags, told, best.data.tags if best else {})
        return cls(status, ended.info.end_time if ended else None, figures, {**tags, NOTE: note})


def _phase(run: "Run") -> str:
    phase: str = run.data.tags.get("phase", "")
    return phase


def _mel_ce(run: "Run") -> float:
    figure: float = run.data.metrics.get(f"{BEST}/mel_ce", math.inf)
    return figure if math.isfinite(figure) else math.inf


def _children(store: TrackingStore, parent_id: str) -> list["Run"]:
    query = f"tags.`{PARENT}` = '{parent_id}'"
    return list(store.client.search_runs([store.experiment_id], query, max_results=_LIMIT))


def _describe(store: TrackingStore, parent: "Run", record: TrackedRun) -> None:
    """Give a new one its params and data set, or what a kill has kept from it."""
    from mlflow.entities import Param

    assert record.pipeline
    missing = {name: text for name, text in record.pipeline.params.items() if name not in parent.data.params}
    if missing:
        params = [Param(name, text) for name, text in missing.items()]
        store.client.log_batch(parent.info.run_id, params=params)
    if record.dataset and not (parent.inputs and parent.inputs.dataset_inputs):
        store.client.log_inputs(parent.info.run_id, datasets=[record.dataset_input()])


@contextmanager
def _alone(store: TrackingStore) -> Iterator[None]:
    """One process of this workspace at a time: no other ever touches the workspace's pipelines."""
    try:
        with FileLock(store.lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise TimeoutError(f"{store.lock} is held by another process that delivers to MLflow") from None
