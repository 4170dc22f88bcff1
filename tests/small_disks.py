"""Real small file systems, where this machine lets tests mount them."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs of limited size, in memory."""

    root: Path

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.root).free

    def fill(self, leave: int = 0) -> Path:
        """Take all room but `leave` bytes, rounded down to pages."""
        filler = self.root / "somebody's film.mkv"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free - leave))
        return filler

    def resize(self, size: int) -> None:
        self.change(f"size={size}")

    def change(self, option: str) -> None:
        """Of mount: ro, rw …"""
        _mount("-o", f"remount,{option}", str(self.root))


@contextmanager
def small_disk(root: Path, size: int) -> Iterator[SmallDisk]:
    """A file system of `size` bytes at `root`; the test is skipped where none can be mounted."""
    root.mkdir(parents=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system needs root on Linux")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Refuse writes below this folder to everyone, root too; the test is skipped where nothing can be mounted."""
    try:
        _mount("--bind", str(folder), str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root on Linux")
    try:
        while not _mounts("-o", "remount,bind,ro", str(folder)):
            time.sleep(0.001)  # a file in it is being written
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mounts(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
