"""Files damaged as disks and people damage them."""

import os
from pathlib import Path


def flip_byte(path: Path, at: int = -5) -> None:
    """Change a byte in place, as a failing disk would: other names of the file see it too."""
    path.write_bytes(_flipped(path, at))


def flip_in_the_middle(path: Path) -> None:
    flip_byte(path, path.stat().st_size // 2)


def replace_flipped(path: Path, at: int = -1) -> None:
    """A file with another byte takes its place: other names of it stay as they are."""
    content = _flipped(path, at)
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def _flipped(path: Path, at: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    return bytes(content)
