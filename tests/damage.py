"""Files damaged as disks and people damage them."""

from pathlib import Path


def flip_byte(path: Path, at: int = -5) -> None:
    """Change a byte in place, as a failing disk would: other names of the file see it too."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])
