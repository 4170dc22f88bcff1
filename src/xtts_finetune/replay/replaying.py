"""Steps taken again by the code that trains, each held against what was recorded of it."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.lock import AGAIN, held_alone
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.errors import DiskFull, Problem, UserError
from xtts_finetune.core.files import link_tree, scratch_folder
from xtts_finetune.core.layout import CURVE, Workspace
from xtts_finetune.model.device import device_in_words, make_deterministic
from xtts_finetune.replay.recorded import Recorded
from xtts_finetune.stages.memory import opened_within_memory
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.training.run import Run
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import Team

# Steps beyond the last one wanted: the first's figures follow from its weights, the second's from its moments, too.
WITNESSES = 2
_NEVER = 1_000_000_000  # steps apart: no save falls due


@dataclass(frozen=True)
class Replayed:
    """What came of it.

    Attributes:
        state: the newest of those that were asked for; it lies in a folder that goes with the replay.
        first, last: the steps after the first, up to the last, were held against what was recorded of them.
        proven: what of the states is, by SHA-256, what was kept then: (step, file).
    """

    state: Checkpoint | None
    first: int
    last: int
    proven: list[tuple[int, str]]


class _Nobody:
    """Gets no figures: these steps are in MLflow already."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...


@contextmanager
def one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Hold the place of what is trained again.

    Raises:
        UserError: another process does so.
    """
    busy = Problem(str(workspace.rebuilt_lock), "another process trains steps again here", AGAIN)
    with held_alone(workspace.rebuilt_lock, "not now", busy):
        yield


def nearest(recorded: Recorded, step: int) -> Checkpoint | None:
    """The newest state up to `step` of which every byte is as it was written; None: the phase's beginning."""
    for state in reversed([each for each in recorded.states if each.step <= step]):
        damage = state.damage()
        if damage is None:
            return state
        Bar.write(f"passing over {state.folder}: {damage}")
    return None


@contextmanager
def replayed(recorded: Recorded, start: Checkpoint | None, to: int, wanted: Collection[int]) -> Iterator[Replayed]:
    """Train from `start` to step `to`, and up to two steps on where there were as many, and see that it is the same.

    Args:
        start: None: the phase's beginning.
        wanted: steps whose states are held against what was kept of them; of the newest it is to be had.

    Raises:
        UserError: something is not as it was recorded.
        DiskFull: a state has no room.
        OutOfMemory: the device does not hold the network, or a step.
    """
    make_deterministic()
    job = recorded.job
    with scratch_folder(job.workspace.rebuilding / job.name) as scratch:
        folder = scratch / job.name
        folder.mkdir()
        begun = _held(start, scratch) if start else None
        yield opened_within_memory(job.name, lambda: _train(recorded, begun, to, set(wanted), folder))


def _held(state: Checkpoint, folder: Path) -> Checkpoint:
    """A state under a name in `folder`, where no trainer prunes it meanwhile."""
    link_tree(state.folder, folder / state.folder.name)
    return Checkpoint(folder / state.folder.name, state.step)


def _train(recorded: Recorded, start: Checkpoint | None, to: int, wanted: set[int], folder: Path) -> Replayed:
    job, store = recorded.job, CheckpointStore(folder, keep_last=1)
    record = Record.from_json(start.state) if start else Record(recorded.record.identity)
    run = Run(Share(job.inputs(), Team.alone()), record, store, Curve(folder / CURVE), _Nobody(), _NEVER, 1)
    Bar.write(f"{job.name} trains again {device_in_words()}")
    if not run.resume(start):
        run.evaluate()
    first, held = run.position.step, _Held(recorded, run)
    proven = _take_states(recorded, run, wanted)
    last = min(to + WITNESSES, recorded.last_step)
    with Bar(total=last - first, desc=f"{job.name} again", unit="step", mininterval=0.5) as bar:
        while run.position.step < last:
            run.take_step()
            if run.at_epoch_end:
                run.end_epoch()
            if run.should_evaluate:
                run.evaluate()
            run.read_figures()
            held.compare()
            proven += _take_states(recorded, run, wanted)
            bar.update()
    held.compare_whole(first)
    return Replayed(next(iter(store.states()), None), first, last, proven)


def _take_states(recorded: Recorded, run: Run, wanted: set[int]) -> list[tuple[int, str]]:
    """Save the state if it is wanted; what of it is as it was kept."""
    step = run.position.step
    if step not in wanted:
        return []
    wanted.discard(step)
    run.save()
    run.finish_saving()
    run.store.reserve.release()
    if not run.is_saved:
        raise DiskFull(f"the state of step {step} has no room; nothing was changed")
    made, kept = run.store.states()[-1], recorded.digests.get(step, {})
    for name, digest in kept.items():
        now = made.manifest.get(name, {}).get("sha256")
        if now != digest:
            raise _differs(recorded, f"step {step}: {name} had the SHA-256 {digest[:12]}… and has {str(now)[:12]}… now")
    return [(step, name) for name in kept]


class _Held:
    """Holds the rows of a run's curve against those recorded."""

    def __init__(self, recorded: Recorded, run: Run) -> None:
        self.recorded, self.run = recorded, run
        self._seen: dict[int, set[str]] = defaultdict(set)
        self._rows = 0
        self.compare()

    def compare(self) -> None:
        """Raises UserError: of the rows since the last time one differs."""
        rows = self.run.curve.rows
        for row in rows[self._rows :]:
            self._seen[row["step"]] |= row.keys()
            self._refuse(self.recorded.difference(row))
        self._rows = len(rows)

    def compare_whole(self, first: int) -> None:
        """Raises UserError: what was recorded of the steps after `first` did not all come again."""
        self._refuse(self.recorded.lacking({step: names for step, names in self._seen.items() if step > first}))

    def _refuse(self, difference: str | None) -> None:
        if difference:
            raise _differs(self.recorded, difference)


def _differs(recorded: Recorded, what: str) -> UserError:
    """As far as it was trained again it is not what was trained then."""
    known = f" ({'; '.join(recorded.doubts)})" if recorded.doubts else ""
    remedy = (
        f"use the code, the packages (requirements.lock) and the kind of machine that trained it{known}: on another "
        "processor or GPU sums may be rounded otherwise. No file was changed"
    )
    return UserError(
        "the training does not repeat",
        [Problem(f"{recorded.job.name}, {what.partition(':')[0]}", what.partition(": ")[2], remedy)],
    )
