"""The phases' locks: one trainer at a time, and none while its files are being cleared away."""

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, holder_of, lock_of
from xtts_finetune.core.processes import ProcessMark

TRAINER = "another trainer"
CLEAN, RESTORE = "xtts-finetune clean", "xtts-finetune restore"
AGAIN = "wait for it, then type this again"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a phase's `folder` (created if missing) for this process, which trains it; death releases it.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder, TRAINER) as held:
        if not held:
            raise UserError("this phase is already being trained", [_problem(folder)])
        yield


def trained_now(workspace: Workspace) -> set[PhaseName]:
    """The phases that a trainer of this host holds.

    By what holders write down, and never by trying to lock: a trainer that starts meanwhile would be refused. For a
    reader; who is to delete something asks `trainers_kept_out`.
    """
    return {phase for phase in PHASES if is_trained(workspace.work(phase))}


@contextmanager
def trainers_kept_out(workspace: Workspace, who: str = CLEAN) -> Iterator[set[PhaseName]]:
    """Hold the locks of all phases that nobody holds, and let others know `who` does; yields those that were held."""
    with ExitStack() as stack:
        yield {phase for phase in PHASES if not stack.enter_context(_hold(workspace.work(phase), who))}


@contextmanager
def models_held(workspace: Workspace) -> Iterator[None]:
    """Hold models/: what is measured there must be what is registered. Not for trainers, which run before or after.

    Raises:
        UserError: another process holds it.
    """
    models = str(workspace.model(PHASES[0]).parent)
    what = f"another process is at work here: evaluate, or {RESTORE}"
    with held_alone(workspace.models_lock, "not now", Problem(models, what, AGAIN)):
        yield


@contextmanager
def held_alone(lock: Path, title: str, busy: Problem) -> Iterator[None]:
    """Hold a lock file, whose folder is made where there is none.

    Raises:
        UserError: another process holds it: what is `busy` then, under that title; or this user may not.
    """
    from filelock import FileLock, Timeout  # not for who only reads who holds one

    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(title, [busy]) from None
    except OSError as error:
        if is_disk_full(error):
            raise
        remedy = "let this user write it, who may not be the one that made it; or delete it: it is made anew"
        raise UserError(title, [Problem(str(lock), f"cannot be held: {error.strerror}", remedy)]) from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def _hold(folder: Path, who: str) -> Iterator[bool]:
    """Whether the lock could be had; then it is held."""
    from filelock import FileLock, Timeout

    lock = FileLock(lock_of(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        _Holder(ProcessMark.own(), platform.node(), who).write(folder)
        yield True
    finally:
        with suppress(PermissionError):  # on Windows, while someone reads it
            holder_of(folder).unlink(missing_ok=True)
        lock.release()


def is_trained(folder: Path) -> bool:
    """Whether a trainer of this host holds a phase's folder, as `trained_now`."""
    holder = _Holder.read(folder)
    return holder is not None and holder.who == TRAINER and holder.mark.is_of_this_host and holder.mark.is_alive


def is_held_elsewhere(folder: Path) -> bool:
    """Whether a process of another host wrote down that it holds a phase's folder; whether it lives is not known."""
    holder = _Holder.read(folder)
    return holder is not None and not holder.mark.is_of_this_host


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock, as it wrote down. A killed one's stays until the next."""

    mark: ProcessMark
    host: str
    who: str

    @classmethod
    def read(cls, folder: Path) -> "_Holder | None":
        """None where nobody holds it, or had room to say so."""
        try:
            content = read_json(holder_of(folder))
            mark = ProcessMark.parse(content["process"])
            return None if mark is None else cls(mark, content["host"], content["who"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """For those who look: on a full disk the lock holds without."""
        try:
            content = {"process": str(self.mark), "host": self.host, "who": self.who}
            holder_of(folder).write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            if not is_disk_full(error):
                raise


def _problem(folder: Path) -> Problem:
    holder = _Holder.read(folder)
    if holder is None or (holder.mark.is_of_this_host and not holder.mark.is_alive):  # of a killed one
        find = "tasklist" if sys.platform == "win32" else "pgrep -af xtts_finetune"
        return Problem(str(folder), f"{TRAINER} is at work here", f"wait for it, or find it ({find}) and stop it")
    pid, who, place = holder.mark.pid, holder.who, "" if holder.mark.is_of_this_host else f" on {holder.host}"
    stop = f"taskkill /PID {pid}" if sys.platform == "win32" else f"kill {pid} (a trainer saves first)"
    left = ", perhaps left behind when its dvc was killed" if who == TRAINER else ""
    what = f"{who} is at work here: process {pid}{place}{left}"
    return Problem(str(folder), what, f"wait for it, or stop it{place}: {stop}")
