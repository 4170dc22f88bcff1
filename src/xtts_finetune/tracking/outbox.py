"""What MLflow has yet to get of a run, on disk: a description and a cursor, beside the curve that is the spool.

A server may be down for days: everything that it is to be told stands in the run's folder, and nothing else is needed
to tell it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import sha256_json, write_json
from xtts_finetune.core.layout import (
    CURVE,
    DELIVERY,
    PHASES,
    SYSTEM,
    PhaseName,
    Workspace,
    is_run_key,
    is_undelivered,
    spoken_in,
)
from xtts_finetune.tracking.curve import Row, read_rows

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

RUNNING = "RUNNING"
# `mean/…` and `lr` of a row are the CSV's alone
_LOGGED = ("train/", "eval/", "eval_ema/", "eval_train/", "disk/", "system/")
BEST = "best"  # begins the metrics of what a run came to, as best/mel_ce

# In the card and the tags of weights that were put together for the registry: SHA-256 of what was trained of them.
TRAINED = "trained_sha256"


@dataclass(frozen=True)
class Order:
    """A model that is to be registered with the run; its files lie beside, as BUNDLE."""

    model_name: str
    sha256: str  # of its weights
    tags: dict[str, str]
    metrics: dict[str, float]
    page: str = ""  # Markdown for the version's page; "": a line is made of the tags


@dataclass(frozen=True)
class Pipeline:
    """The run that the phases and evaluations of one pipeline come under: those over the same run of phase 1."""

    key: str  # of it: whoever is delivered first makes it, and equal keys are one
    name: str
    params: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow is to show it, and how far it does."""

    key: str  # of the work: equal keys are one run
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    dataset: tuple[str, str, str] | None  # name, source, digest of at most 36 characters
    created: int  # ms since the epoch; the time of rows that have none
    status: str = RUNNING
    ended: int | None = None  # ms since the epoch
    order: Order | None = None
    run_id: str | None = None
    delivered: dict[str, int] = field(default_factory=dict)  # metric → its last step that MLflow has
    told: str = ""  # `description` as MLflow has it
    # what the run came to, in nats per token, rounded to be read in a table
    figures: dict[str, float] = field(default_factory=dict)
    pipeline: Pipeline | None = None  # None: records of before there were any
    heard: dict[str, list[str]] = field(default_factory=dict)  # the id of a run → folders of SAMPLES that it has

    def dataset_input(self) -> "DatasetInput":
        """The data set, as MLflow takes it."""
        from mlflow.entities import Dataset, DatasetInput

        assert self.dataset
        name, source, digest = self.dataset
        return DatasetInput(Dataset(name, digest, source_type="local", source=json.dumps({"uri": source})))

    @property
    def description(self) -> str:
        """A digest of all but the points."""
        return sha256_json([self.params, self.tags, self.status, self.figures, self.order and asdict(self.order)])


@dataclass(frozen=True)
class Point:
    """A value of the curve. Its timestamp is fixed, so that sending it twice stores it once."""

    metric: str
    value: float
    timestamp: int  # ms since the epoch
    step: int


@lru_cache(maxsize=1)
def _record() -> TypeAdapter[TrackedRun]:
    """Built when a record is read: it takes 30 ms."""
    return TypeAdapter(TrackedRun)


class Outbox:
    """A run's folder. Threads of one process may share it."""

    def __init__(self, folder: Path, record: TrackedRun, rows: Callable[[], list[Row]]) -> None:
        self.folder = folder
        self.record = record
        self._rows = rows
        self._is_read = False
        self._lock = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> "Outbox":
        """The outbox of a run that others may move away meanwhile, or begin to train.

        Raises:
            UserError: its record is damaged.
        """
        outbox = cls(
            folder, _read(folder / DELIVERY), lambda: [*read_rows(folder / CURVE), *read_rows(folder / SYSTEM)]
        )
        outbox._is_read = True
        return outbox

    def change(self, **changes: Any) -> None:
        """Change the record in memory; `save` puts it on the disk."""
        with self._lock:
            self.record = replace(self.record, **changes)

    def save(self) -> None:
        """Write the record; one that was read, over its own run only: a trainer may have renamed the folder."""
        with self._lock:
            if not self._is_read or self._is_there():
                write_json(self.folder / DELIVERY, asdict(self.record))

    def _is_there(self) -> bool:
        with suppress(UserError, FileNotFoundError):
            return _read(self.folder / DELIVERY).key == self.record.key
        return False

    @property
    def rows(self) -> list[Row]:
        return self._rows()

    def outstanding(self) -> list[Point]:
        """The points that MLflow lacks, in the order of the curve."""
        record = self.record
        return [
            Point(metric, value, row.get("time", record.created), row["step"])
            for row in self._rows()
            for metric, value in logged(row).items()
            if row["step"] > record.delivered.get(metric, -1)
        ]

    def unheard(self) -> list[Path]:
        """The folders of SAMPLES that MLflow lacks."""
        heard = self.record.heard.get(self.record.run_id or "", ())
        return [each for each in spoken_in(self.folder).values() if each.name not in heard]

    @property
    def is_delivered(self) -> bool:
        return self.record.told == self.record.description and not self.outstanding() and not self.unheard()


def logged(row: Row) -> dict[str, float]:
    """The part of a curve's row that MLflow is given."""
    return {name: value for name, value in row.items() if name.startswith(_LOGGED)}


def now() -> int:
    """In ms since the epoch."""
    return int(time.time() * 1000)


def new_tracked_run(
    key: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: tuple[str, str, str] | None = None,
) -> TrackedRun:
    """A run that begins."""
    return TrackedRun(key, name, {param: str(value) for param, value in params.items()}, dict(tags), dataset, now())


def ended_outboxes(workspace: Workspace) -> Iterator[Path]:
    """The folders of runs that ended undelivered, the one that began first first; in a checkout the queue's, too."""
    places = [workspace.undelivered] if workspace.is_copy else [workspace.undelivered, workspace.queue.undelivered]
    folders = {file.parent for place in places for file in place.glob(f"*/{DELIVERY}")}
    folders = {folder for folder in folders if not folder.name.startswith(".")}  # half-written or half-deleted
    yield from sorted(folders, key=lambda folder: (_created(folder), folder.name))


def ordered(workspace: Workspace) -> set[str]:
    """SHA-256 of the weights that wait to be registered."""
    orders = (Outbox.read(folder).record.order for folder in ended_outboxes(workspace))
    return {order.sha256 for order in orders if order}


def running_outboxes(workspace: Workspace) -> Iterator[tuple[PhaseName, Path]]:
    """The folders of phases that are unfinished, or not taken over by DVC yet; parked ones, too."""
    for phase in PHASES:
        work = workspace.work(phase)
        for folder in (work, *sorted(work.parent.glob(f"{work.name}.*"))):
            if (folder / DELIVERY).is_file():
                yield phase, folder


def passed_over(folder: Path) -> str:
    """A line about the damaged record of a run that is not ended: its states are whole, and MLflow knows its points."""
    return f"tracking: {folder / DELIVERY} is damaged and passed over"


def _read(file: Path) -> TrackedRun:
    try:
        record = _record().validate_json(file.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(file, " ".join([*map(str, first["loc"]), first["msg"]])) from error
    if not is_run_key(record.key):  # it names a folder
        raise _damaged(file, f"no key: {record.key!r}")
    return record


def _damaged(file: Path, what: str) -> UserError:
    if is_undelivered(file.parent):
        remedy = f"rm -r {quoted(file.parent)}: MLflow then lacks the run; reports/ and models/ have its results"
    else:
        remedy = f"rm {quoted(file)}: it is made anew when the run goes on; MLflow knows how far it has its points"
    return UserError("a run cannot be delivered", [Problem(str(file), f"is damaged: {what}", remedy)])


def _created(folder: Path) -> int:
    with suppress(UserError, FileNotFoundError):
        return _read(folder / DELIVERY).created
    return 0
