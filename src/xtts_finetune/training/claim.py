"""Which run a phase goes on with, before it is trained: nothing of another run, and nothing precious, is lost by it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import FORMAT, STOPPING_RULES, Identity, Record
from xtts_finetune.checkpoints.parking import continues, described, park, record_of, unpark
from xtts_finetune.checkpoints.stopping import ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import discard
from xtts_finetune.core.layout import STATE
from xtts_finetune.tracking.curve import parse_rows, stored_rows
from xtts_finetune.training.phases import Job
from xtts_finetune.training.position import Position


@dataclass(frozen=True)
class Claim:
    """What a phase goes on with."""

    state: Checkpoint | None  # the newest that verifies; None: from the beginning, or it is done
    record: Record  # of the run, with the code of today


def claim(job: Job, store: CheckpointStore, is_kept: Callable[[], bool]) -> Claim:
    """Find the run that the parameters ask for: in work/, parked, or yet to begin. Another run in work/ is parked.

    An unfinished run goes on under newer code; a done one of older code is another run. Where the stopping rules
    changed, a done run goes on, or ends anew.

    Args:
        is_kept: whether DVC's cache holds all of the done run in work/, which then needs no parking.

    Raises:
        UserError: prepare has not run; or going on would lose the best weights.
    """
    identity = job.identity
    _make_way(job, store, identity, is_kept)
    summary = store.ended_by(job.phase, parse_rows)
    if summary is not None:
        return Claim(None, Record.from_json(summary))
    state = store.latest(lambda damaged, why: tqdm.write(f"passing over {damaged.folder}: {why}"))
    record = None if state is None else _readable(state)
    if state is not None and _has_lost_its_way(job, state):
        why = f"{', '.join(STOPPING_RULES)} now end {job.name} before the step of its best weights"
        _put_away(job, store, why, is_kept)
        state = None
    _refuse_lost_best(job, store, state)
    if state is None or record is None:
        return Claim(None, Record(identity))
    store.reopen()
    return Claim(state, _under_code_of_today(record, identity, state.step))


def _make_way(job: Job, store: CheckpointStore, identity: Identity, is_kept: Callable[[], bool]) -> None:
    """Leave in work/ nothing but the run `identity`, if there is one."""
    record = record_of(store.folder)
    if record is not None and not continues(store.folder, identity):
        _put_away(job, store, f"{_changes(identity, record)} changed", is_kept)
        record = None
    if record is None and not (store.states() or store.best() or store.done):
        _empty(store)
        folder = unpark(job.workspace, identity)
        store.folder.mkdir(exist_ok=True)
        if folder is not None:
            tqdm.write(f"{job.name} goes on with the run that was parked in {_place(job, folder)}/")


def _changes(identity: Identity, record: Record) -> str:
    return ", ".join(identity.changes(replace(record.identity, code=record.code)))


def _put_away(job: Job, store: CheckpointStore, why: str, is_kept: Callable[[], bool]) -> None:
    """Empty work/ for another run, and say where this one is: in DVC's cache, or else parked."""
    if store.done and is_kept():
        tqdm.write(
            f"another run: {why}; the one before is in DVC's cache, "
            "where clean --history leaves it while a commit or an experiment names it"
        )
        _empty(store)
    else:
        _park(job, store, why)


def _park(job: Job, store: CheckpointStore, why: str) -> None:
    record = record_of(store.folder)
    assert record is not None, "only a run that was recognised is parked"
    store.reserve.release()
    key = record.identity.key
    folder = park(job.workspace, job.name, key)
    store.folder.mkdir()
    before = described(folder, job.name, key)
    later = "and goes on when it is set back" if before.goes_on else "and cannot go on: only its best weights are left"
    tqdm.write(
        f"another run: {why}; the one before, up to step {before.step}, is parked in "
        f"{_place(job, folder)}/ ({shown(before.bytes)}) {later}"
    )


def _place(job: Job, folder: Path) -> str:
    return folder.relative_to(job.workspace.home.root).as_posix()


def _empty(store: CheckpointStore) -> None:
    """Leave nothing in work/: nothing of a run is there that could be gone on with, or DVC's cache has it."""
    store.reserve.release()
    if any(store.folder.iterdir()):
        discard(store.folder)
        store.folder.mkdir()


def _has_lost_its_way(job: Job, state: Checkpoint) -> bool:
    """Whether the rules end the run before the step of its best: the best up to there was replaced long ago."""
    end = ending(stored_rows(state.folder), job.phase)
    return end is not None and Position.from_json(state.state["position"]).best_step > end.step


def _readable(state: Checkpoint) -> Record:
    """What a state says of its run.

    Raises:
        UserError: it is of a format that this code does not know.
    """
    try:
        return Record.from_json(state.state)
    except (ValueError, KeyError, TypeError) as error:
        what = f"is of no format that this code knows ({error}; the newest is {FORMAT})"
        remedy = "go on with the code that wrote it"
        problem = Problem(str(state.folder / STATE), what, remedy)
    raise UserError("this run cannot be resumed", [problem])


def _under_code_of_today(record: Record, identity: Identity, step: int) -> Record:
    if record.code == identity.code:
        return record
    return replace(record, newer_code=(*record.newer_code, (step, identity.code)))


def _refuse_lost_best(job: Job, store: CheckpointStore, state: Checkpoint | None) -> None:
    """Ask the user whether to give up hours of training, where going on from `state` would lose them.

    Raises:
        UserError: the best weights are lost; or no state is left, and starting over would replace what is.
    """
    best, steps = store.best(), [each.step for each in (*store.states(), *store.bests())]
    if state is not None and not _is_safe(store, state):
        what = "the best weights so far are missing or damaged, and no state holds them"
        remedy = "bring them back, or start the phase over"
    elif state is None and max(steps, default=-1) > job.start_step and (best is None or best.damage()):
        what = f"no state can be resumed from: what there is, up to step {max(steps)}, is damaged"
        remedy = "bring it back, or start the phase over"
    elif state is None and best is not None and (store.done or best.step > job.start_step):
        what = f"no state can be resumed from, but the best weights, of step {best.step}, are whole"
        remedy = f"copy {best.weights} if you want to keep them, then start the phase over"
    else:
        return
    problem = Problem(str(store.folder), what, f"{remedy}: rm -r {quoted(store.folder)} && dvc repro")
    raise UserError("this run cannot be resumed", [problem])


def _is_safe(store: CheckpointStore, state: Checkpoint) -> bool:
    """Whether the best weights up to `state` are in it, in their own folder, or sure to be replaced.

    A later best is that of a state which was damaged or had no room: the steps up to it will be replayed.
    """
    latest, best_step = store.best(), Position.from_json(state.state["position"]).best_step
    if best_step in (state.step, -1) or (latest is not None and latest.step > state.step):  # -1: none was finite so far
        return True
    best = store.best(best_step)
    return best is not None and best.damage() is None
