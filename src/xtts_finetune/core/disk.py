"""Room on disk: how much is free, what files hold, what deleting them would free, and the errors of a full disk."""

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xtts_finetune.core.errors import DiskFull
from xtts_finetune.core.files import discard_leftovers, temporary_name

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WINDOWS = {39, 112, 1295}  # ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
# Where a library keeps only the text: safetensors (os error), SQLite and MLflow over it.
_FULL_TEXT = re.compile(
    r"os error (28|122|27|112|39)\b|no space left on device|disk quota exceeded|file too large"
    r"|database or disk is full|not enough space on the disk",
    re.IGNORECASE,
)
_REFUSED_TEXT = re.compile(r"os error (13|1|30)\b|attempt to write a readonly database", re.IGNORECASE)


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk, a quota or a limit on file sizes caused `error`, however it was wrapped.

    torch raises a RuntimeError with the OSError in `__context__`, safetensors an error of its own with the number in
    its text, SQLite and MLflow only a text.
    """
    return any(
        (cause.errno in _FULL or getattr(cause, "winerror", None) in _FULL_WINDOWS)
        if isinstance(cause, OSError)
        else _FULL_TEXT.search(str(cause))
        for cause in _causes(error)
    )


def is_refused(error: BaseException) -> bool:
    """Whether `error` comes from a file or folder that this user may not write, or that is mounted read-only."""
    return any(
        cause.errno in _REFUSED if isinstance(cause, OSError) else _REFUSED_TEXT.search(str(cause))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that it was raised from or while handling, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__]


@contextmanager
def full_disk_raises() -> Iterator[None]:
    """Raise DiskFull for what `is_disk_full` knows.

    Raises:
        DiskFull: from the error that it was.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull((str(error).splitlines() or [""])[0][:200]) from error  # SQLAlchemy adds the whole statement
        raise


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write where `path` lies or would lie."""
    return shutil.disk_usage(_existing(path)).free


def file_system(path: Path) -> int:
    """A number for the file system where `path` lies or would lie."""
    return _existing(path).stat().st_dev


def mount_point(path: Path) -> Path:
    """The uppermost folder of the file system where `path` lies or would lie: how its disk is called."""
    place = _existing(path).resolve()
    while place.parent != place and file_system(place.parent) == file_system(place):
        place = place.parent
    return place


def can_link(source: Path, target: Path) -> bool:
    """Whether a file in folder `source` can have a second name (a hard link) in `target`: tried out, nothing stays.

    Folders that are not there yet stand for the nearest above them.
    """
    probes = [_existing(folder) / "link" for folder in (source, target)]
    for probe in probes:
        discard_leftovers(probe)
    first, second = map(temporary_name, probes)
    try:
        first.touch(exist_ok=False)
    except OSError:  # no room or no right even to try
        return file_system(source) == file_system(target)
    try:
        os.link(first, second)
    except OSError:  # another file system, or one without hard links
        return False
    finally:
        first.unlink()
    second.unlink()
    return True


def files_below(*folders: Path) -> Iterator[Path]:
    """Every file under `folders` (a folder that is none is a file itself, or nothing); links are not followed."""
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            for parent, _, names in os.walk(folder):
                yield from (Path(parent, name) for name in names)
        elif os.path.lexists(folder):
            yield folder


def held_bytes(files: Iterable[Path], counted: set[tuple[int, int]] | None = None) -> int:
    """Bytes that `files` occupy on disk, each inode once; those in `counted` not again, and it learns of the others."""
    counted = set() if counted is None else counted
    held = 0
    for stat in _stats(files):
        if (stat.st_dev, stat.st_ino) not in counted:
            counted.add((stat.st_dev, stat.st_ino))
            held += allocated(stat)
    return held


def freed_bytes(files: Iterable[Path]) -> int:
    """Bytes that deleting `files` would free: of an inode only when all of its names are among them."""
    names: Counter[tuple[int, int]] = Counter()
    stats: dict[tuple[int, int], os.stat_result] = {}
    for stat in _stats(set(files)):
        names[stat.st_dev, stat.st_ino] += 1
        stats[stat.st_dev, stat.st_ino] = stat
    return sum(allocated(stat) for inode, stat in stats.items() if names[inode] >= stat.st_nlink)


def shown(size: int) -> str:
    """Bytes for a reader, in decimal units as disks are sold: 5.29 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.3g} {unit}"


class Reserve:
    """A file that holds room for what must always fit, and gives it up when it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self.path.stat().st_size if self.path.exists() else 0

    def hold(self, size: int) -> bool:
        """Hold `size` bytes from now on; False, and nothing held, if they are not there.

        Raises:
            OSError: the file cannot be written for another reason.
        """
        if self.held == size:
            return True
        self.release()
        try:
            with self.path.open("wb") as file:
                _allocate(file, size)
        except OSError as error:
            self.release()
            if is_disk_full(error):
                return False
            raise
        return True

    def release(self) -> None:
        self.path.unlink(missing_ok=True)


def _allocate(file: BinaryIO, size: int) -> None:
    """Have a new file take `size` bytes on disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif os.name == "nt":
        file.truncate(size)  # NTFS takes the clusters at once
    else:  # macOS would leave a hole
        for start in range(0, size, len(_ZEROS)):
            file.write(_ZEROS[: size - start])


_ZEROS = bytes(1 << 20)


def _stats(files: Iterable[Path]) -> Iterator[os.stat_result]:
    for file in files:
        with suppress(FileNotFoundError):  # a run that is under way has removed it
            yield file.lstat()


def allocated(stat: os.stat_result) -> int:
    """Bytes that a file occupies on disk."""
    return stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
