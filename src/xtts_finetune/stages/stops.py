"""What a stage that cannot go on leaves: all that was saved, and a text that says what happened and what to type."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import Reserve, free_bytes, full_disk_raises, is_disk_full, is_refused, shown
from xtts_finetune.core.errors import DiskFull, OutOfMemory, Problem, Stopped, UserError
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.report.gathering import Stage
from xtts_finetune.report.pages import write_pages
from xtts_finetune.stages.notify import notify
from xtts_finetune.tracking.curve import last_step, read_rows
from xtts_finetune.tracking.journal import Happening, latest, write_down

_PAGE = 4096  # bytes; a block of most file systems
# Bytes: the page, and the list of locks that DVC writes when `clean` asks it, a path and a command per dep and out.
_ROOM = 1 << 16


@contextmanager
def told(workspace: Workspace, params: Params, stage: Stage) -> Iterator[None]:
    """Write down when a stage begins, ends or stops, and then the report; tell who wants to know."""
    began = Happening.now(workspace, "began", stage)
    try:
        yield
    except UserError as mistake:
        if _has_trained(workspace, stage, began):  # else nothing is written: it was refused, and another may train
            _keep_reason(workspace, str(mistake))
            _tell_stop(workspace, params, stage, began, mistake.title)
        raise
    except Stopped as stop:
        _tell_stop(workspace, params, stage, began, str(stop).partition("\n")[0])
        raise
    except SystemExit as end:  # with the code of processes that trained together, who said why
        if end.code:
            _tell_stop(workspace, params, stage, began, f"exit code {end.code}; why, it said itself")
        raise
    except Exception as bug:
        why = f"{type(bug).__name__}: {bug}"
        _keep_reason(workspace, f"{stage} failed: {why}")
        _tell_stop(workspace, params, stage, began, why.partition("\n")[0])
        raise
    with suppress(KeyboardInterrupt):  # the stage is done: what is told of it must not undo that
        write_down(workspace, began, Happening.now(workspace, "ended", stage))
        write_pages(workspace, stage, is_stage=True)
        if stage == "evaluate":
            notify(workspace, params, "finish", "all stages are done", stage)


def _has_trained(workspace: Workspace, stage: Stage, began: Happening) -> bool:
    """Whether it was this process that trains since."""
    last = latest(workspace, stage)
    return last is not None and last.time >= began.time and stage not in trained_now(workspace)


def _keep_reason(workspace: Workspace, text: str) -> None:
    with suppress(OSError):  # a folder that may not be written, as the reason itself may say
        _write(workspace, text)


def _tell_stop(workspace: Workspace, params: Params, stage: Stage, began: Happening, why: str) -> None:
    write_down(workspace, began, Happening.now(workspace, "stopped", stage, _step(workspace, stage), why))
    write_pages(workspace, is_stage=True)
    notify(workspace, params, "stop", f"{stage} has stopped: {why}")


def _step(workspace: Workspace, stage: Stage) -> int | None:
    """Up to which one was trained."""
    return last_step(read_rows(workspace.running_curve(stage))) if stage in PHASES else None


@contextmanager
def explained_stops(workspace: Workspace) -> Iterator[None]:
    """Let a stage end as Stopped when the disk is full, and leave `Workspace.stopped` when it is stopped.

    Raises:
        Stopped: with what happened, the resume point and the commands that go on from there.
        UserError: a file or folder cannot be written.
    """
    try:
        with full_disk_raises(), _interrupts_stop():
            workspace.stopped.unlink(missing_ok=True)
            _hold_page(workspace)
            yield
    except Stopped as stop:
        text = "\n".join(_lines(workspace, stop))
        if workspace.is_copy:  # of an experiment of DVC's queue: nobody types dvc repro there
            for again, queue in ("run dvc repro again", "queue"), ("Run dvc repro again", "Queue"):
                text = text.replace(again, f"{queue} the same experiment again")
        _write(workspace, text)
        raise Stopped(text) from stop
    except Exception as error:
        problem = None if isinstance(error, UserError) else _problem(workspace, error)
        if problem is None:
            raise
        raise UserError("a file cannot be written", [problem]) from error


def _problem(workspace: Workspace, error: Exception) -> Problem | None:
    """What keeps a file from being written, if that is all that `error` says."""
    blocking = _in_the_way(error)
    if blocking:
        return Problem(str(blocking), "is a file where a folder belongs", "move it away; then dvc repro goes on")
    if is_refused(error):
        database = workspace.tracking_db if "database" in str(error) else workspace.root  # SQLite does not name it
        where = str(getattr(error, "filename", None) or database)
        remedy = "let this user write there, and see whether its disk is mounted read-only; then dvc repro goes on"
        return Problem(where, str(error), remedy)
    return None


def _in_the_way(error: Exception) -> Path | None:
    if not isinstance(error, FileExistsError | NotADirectoryError) or not error.filename or error.filename2:
        return None
    path = Path(error.filename)
    return next((place for place in (path, *path.parents) if place.is_file()), None)


@contextmanager
def _interrupts_stop() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wherever no phase is at work that would save first."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("interrupted; what was finished is kept. Run dvc repro again to go on") from None


def _lines(workspace: Workspace, stop: Stopped) -> Iterator[str]:
    if isinstance(stop, OutOfMemory):
        yield str(stop)
        yield from _needs_less(workspace, stop)
        return
    if not isinstance(stop, DiskFull):
        yield str(stop)
        return
    yield f"the disk is full ({shown(free_bytes(workspace.root))} free): {stop}"
    yield "Nothing that was saved is lost:"
    yield from (f"  {line}" for phase in PHASES for line in _saved(workspace, phase))
    again = "queue the same experiment again" if workspace.is_copy else "type dvc repro"
    yield f"Make room, then {again}: it resumes there."
    try:
        for way in ways_to_make_room(workspace.home):
            yield f"  {way.request.command:<46} frees {shown(way.bytes)}"
    except UserError as error:  # git or DVC cannot be asked: that is no reason to end otherwise than by this stop
        yield f"  (what can be freed is not known: {error.title})"
    yield "  xtts-finetune disk                             shows what holds the rest"


def _needs_less(workspace: Workspace, stop: OutOfMemory) -> Iterator[str]:
    """How to train in less memory, and what comes of it."""
    from xtts_finetune.planning.command import less_lines  # loads torch

    yield "Where other programs held the memory, dvc repro goes on when they have let go of it. What needs less:"
    try:
        yield from less_lines(workspace, stop.phase)
    except (UserError, MemoryError, RuntimeError) as error:  # no reason to end otherwise than by this stop
        yield f"  (not known here: {str(error).partition(chr(10))[0]}; xtts-finetune plan tells)"
    yield f"With other settings {stop.phase} starts from its beginning; this run is kept, and goes on when set back."


def _saved(workspace: Workspace, phase: PhaseName) -> Iterator[str]:
    """What of an unfinished phase is safe."""
    store = CheckpointReader(workspace.work(phase))
    if store.done:
        yield f"{phase} is trained; only its results have still to be written"
    elif store.folder.exists():
        states, best = store.states(), store.best()
        point = f"the state of step {states[-1].step}, where it resumes" if states else "no state: it starts over"
        yield f"{phase}: {point}" + (f"; the best weights, of step {best.step}" if best else "")


def _write(workspace: Workspace, text: str) -> None:
    """Where not even this page has room, the reserves make it."""
    Reserve(workspace.page_reserve).release()
    for phase in PHASES:
        Reserve(reserve_of(workspace.work(phase))).release()
    try:
        write_text(workspace.stopped, f"{as_typed(text)}\n")
    except OSError as error:
        if not is_disk_full(error):
            raise


def _hold_page(workspace: Workspace) -> None:
    """Room for it, and for what frees more, if there is any. For later stages, too, which may find the disk full."""
    reserve = Reserve(workspace.page_reserve)
    reserve.path.parent.mkdir(parents=True, exist_ok=True)
    if not reserve.hold(_ROOM):
        reserve.hold(_PAGE)
