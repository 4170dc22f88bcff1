"""Deleting and replacing: also what is read-only, and what somebody else deletes meanwhile."""

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Seconds that others get to close what they read, a virus scanner or who speaks with weights: until then Windows
# neither deletes nor renames it, nor any other name of it.
PATIENCE = 30.0 if sys.platform == "win32" else 0.0
_LOOK = 0.2  # seconds between two tries


def remove(path: Path) -> None:
    """Delete a file or link, or a folder with all in it, whoever else is at it; read-only files on Windows, too.

    Killed half-way, part of a folder stays under its name: see `discard`.
    """
    if not path.is_dir() or path.is_symlink():
        try:
            os.unlink(path)
        except OSError as error:
            _try_again(os.unlink, path, error)
    elif sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=_try_again)
    else:
        shutil.rmtree(path, onerror=lambda action, name, found: _try_again(action, name, found[1]))


def replace(source: Path, target: Path) -> None:
    """Rename a file over another, or to where none is."""
    try:
        os.replace(source, target)
    except PermissionError as error:
        _try_again(lambda name: os.replace(source, name), target, error)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder to where nothing is."""
    try:
        os.rename(source, target)
    except PermissionError as error:
        _try_patiently(lambda name: os.rename(source, name), target, error, may_be_gone=False)


def _try_again(action: Callable[..., object], path: str | Path, error: BaseException) -> None:
    """Delete once more what Windows calls read-only: DVC makes its files so, and with them all their hard links.

    POSIX asks the folder alone: there it would fail again, and the file stays as it was.
    """
    if isinstance(error, FileNotFoundError):  # somebody else was faster
        return
    if not isinstance(error, PermissionError):
        raise error
    if not _is_read_only(Path(path)):
        _try_patiently(action, path, error)
        return
    mode = os.stat(path).st_mode
    os.chmod(path, mode | stat.S_IWRITE)
    try:
        _try_patiently(action, path, None)
    except OSError:
        os.chmod(path, mode)
        raise


def _try_patiently(
    action: Callable[..., object], path: str | Path, error: PermissionError | None, may_be_gone: bool = True
) -> None:
    """Do it once more, and while that is refused, until PATIENCE is over.

    Args:
        error: that it was refused with.
    """
    until = time.monotonic() + PATIENCE
    while error is None or time.monotonic() < until:
        if error:
            time.sleep(_LOOK)
        try:
            action(path)
        except FileNotFoundError:
            if may_be_gone:  # somebody else was faster
                return
            raise
        except PermissionError as refused:
            error = refused
        else:
            return
    assert error is not None
    raise error


def _is_read_only(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and not file.stat().st_mode & stat.S_IWRITE
