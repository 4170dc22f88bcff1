"""The phases' locks: one trainer at a time, and none while its files are being cleared away."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, holder_of, lock_of

TRAINER = "another trainer"
CLEAN = "xtts-finetune clean"


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
    """The phases that a live process holds. Leaves no lock file where there is none."""
    return {phase for phase in PHASES if _is_held(workspace.work(phase))}


@contextmanager
def trainers_kept_out(workspace: Workspace) -> Iterator[set[PhaseName]]:
    """Hold the locks of all phases that no trainer holds; yields the phases that one does."""
    with ExitStack() as stack:
        yield {
            phase for phase in PHASES if not stack.enter_context(_hold(workspace.work(phase), "xtts-finetune clean"))
        }


@contextmanager
def _hold(folder: Path, who: str) -> Iterator[bool]:
    """Whether the lock could be had; then it is held."""
    lock, holder = FileLock(lock_of(folder)), holder_of(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        _name(holder, who)
        yield True
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _is_held(folder: Path) -> bool:
    lock = lock_of(folder)
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _name(holder: Path, who: str) -> None:
    """For the message alone: on a full disk the lock holds without."""
    try:
        holder.write_text(json.dumps({"process": os.getpid(), "who": who}), encoding="utf-8")
    except OSError as error:
        if not is_disk_full(error):
            raise


def _problem(folder: Path) -> Problem:
    try:
        found = json.loads(holder_of(folder).read_text(encoding="utf-8"))
        pid, who = found["process"], found["who"]
    except (OSError, ValueError):  # it had no room for it
        find = "tasklist" if sys.platform == "win32" else "pgrep -af xtts_finetune"
        return Problem(str(folder), f"{TRAINER} is at work here", f"wait for it, or find it ({find}) and stop it")
    stop = f"taskkill /PID {pid}" if sys.platform == "win32" else f"kill {pid} (a trainer saves first)"
    left = ", perhaps left behind when its dvc was killed" if who == TRAINER else ""
    return Problem(str(folder), f"{who} is at work here: process {pid}{left}", f"wait for it, or stop it: {stop}")
