"""One trainer at a time in a folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (created if missing) for this process alone; death releases it.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    lock, holder = _lock(folder), _holder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("this phase is already being trained", [_held(folder, holder)]) from None
    try:
        _name_holder(holder)
        yield
        holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.parent / f"{folder.name}.lock")


def _holder(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.pid"


def _name_holder(holder: Path) -> None:
    """For the message alone: on a full disk the lock holds without."""
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
    except OSError as error:
        if not is_disk_full(error):
            raise


def _held(folder: Path, holder: Path) -> Problem:
    pid = holder.read_text(encoding="utf-8").strip() if holder.exists() else ""
    if not pid:
        find = "tasklist" if sys.platform == "win32" else "pgrep -af xtts_finetune"
        return Problem(str(folder), "another trainer is at work here", f"wait for it, or find it ({find}) and stop it")
    stop = f"taskkill /PID {pid}" if sys.platform == "win32" else f"kill {pid} (it saves first)"
    what = f"another trainer is at work here: process {pid}, perhaps left behind when its dvc was killed"
    return Problem(str(folder), what, f"wait for it, or stop it: {stop}")
