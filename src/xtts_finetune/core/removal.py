"""Deleting and replacing: also what is read-only, and what somebody else deletes meanwhile."""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path


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


def _try_again(action: Callable[..., object], path: str | Path, error: BaseException) -> None:
    """Delete once more what Windows calls read-only: DVC makes its files so, and with them all their hard links.

    POSIX asks the folder alone: there it would fail again, and the file stays as it was.
    """
    if isinstance(error, FileNotFoundError):  # somebody else was faster
        return
    if not isinstance(error, PermissionError) or not _is_read_only(Path(path)):
        raise error
    mode = os.stat(path).st_mode
    os.chmod(path, mode | stat.S_IWRITE)
    try:
        action(path)
    except OSError:
        os.chmod(path, mode)
        raise


def _is_read_only(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and not file.stat().st_mode & stat.S_IWRITE
