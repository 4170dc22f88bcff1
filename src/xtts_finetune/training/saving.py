"""States are written while training goes on: a snapshot is taken at once and published on another thread."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint, Contents
from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import files_below, free_bytes, held_bytes, shown
from xtts_finetune.core.files import link_or_copy, sha256_file
from xtts_finetune.core.layout import EMA, WEIGHTS
from xtts_finetune.tracking.curve import Row, as_text, segments
from xtts_finetune.training.position import Position
from xtts_finetune.training.snapshot import Snapshot


@dataclass(frozen=True)
class _Flight:
    position: Position
    saved: "Future[bool]"


class Saver:
    """Saves, one after the other on a thread of their own. What became of one is heard at a later one, and at the end.

    A save that is due while the one before is written takes its turn behind it: it copies when that is done, and
    training goes on until it would change what is to be copied (`Snapshot`). None is left out for being late, so
    states are where `save_every_steps` puts them, and a kill never costs more than it says.
    """

    def __init__(
        self,
        store: CheckpointStore,
        snapshot: Snapshot,
        record: Record,
        log: Callable[[Position, dict[str, float]], None],
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._record = record
        self._log = log
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self._flights: deque[_Flight] = deque()  # at most two that are not over
        self._skipped = 0  # states that the disk had no room for

    def start(self, position: Position, rows: list[Row]) -> None:
        """Take a snapshot and publish it, with the `rows` of the curve up to it, while training goes on.

        Raises:
            DiskFull: in a save before this one not even the weights of a best had room.
            UserError: its disk did not hold what was written to it.
            OSError: it failed for another reason.
        """
        while self._flights and self._flights[0].saved.done():
            self._hear()
        copied = self._snapshot.refresh(self._worker)

        def write_rest(folder: Path) -> None:
            self._snapshot.write_ema(folder / EMA)
            self._snapshot.write_optimizer(folder)
            _write_curve(folder, rows, self._store.states())

        state = {**self._record.to_json(), "position": asdict(position)}
        write_best = self._write_ema_alone if position.best_weights == "ema" else None
        contents = Contents(self._snapshot.write_weights, write_rest, self._snapshot.size, state, write_best)
        is_best = position.best_step == position.step

        before = self._flights[-1].saved if self._flights else None

        def save() -> bool:
            copied.result()
            if before:
                before.result()  # the store stays as one that failed has left it
            return self._store.save(position.step, contents, is_best)

        self._flights.append(_Flight(position, self._worker.submit(save)))

    def finish(self) -> None:
        """Wait for all saves; raises as `start`."""
        while self._flights:
            self._hear()

    def _write_ema_alone(self, folder: Path) -> None:
        self._snapshot.write_ema(folder / WEIGHTS)

    def _hear(self) -> None:
        """Wait for the first of the saves."""
        flight = self._flights.popleft()
        if not flight.saved.result():
            if not self._skipped:
                self._tell(flight.position.step)
            self._skipped += 1
        folder = self._store.folder
        figures = {"free_bytes": free_bytes(folder), "checkpoint_bytes": held_bytes(files_below(folder))}
        self._log(flight.position, {f"disk/{name}": float(value) for name, value in figures.items()})
        self._log(flight.position, {"disk/saves_skipped": float(self._skipped)})

    def _tell(self, step: int) -> None:
        """Say once that states are left out."""
        states = self._store.states()
        point = f"step {states[-1].step}" if states else "its beginning"
        free = shown(free_bytes(self._store.folder))
        tqdm.write(
            f"disk full: the state of step {step} has no room ({free} free). Training goes on without it, and saves "
            f"again when there is room; stopped before that, it resumes from {point}.\n"
            f"  what can be freed: {as_typed('xtts-finetune clean')}"
        )


def _write_curve(folder: Path, rows: list[Row], states: list[Checkpoint]) -> None:
    """Write the curve's segments; those that the newest of `states` has, whole and undamaged, get a second name."""
    former = states[-1] if states else None
    listed = former.manifest if former else {}
    parts = segments(rows)
    for name in parts:
        if former and name in listed and name != max(parts) and _is_undamaged(former, name):
            link_or_copy(former.folder / name, folder / name)
        else:
            (folder / name).write_bytes(as_text(parts[name]).encode())


def _is_undamaged(state: Checkpoint, name: str) -> bool:
    file = state.folder / name
    return file.is_file() and sha256_file(file) == state.manifest[name]["sha256"]
