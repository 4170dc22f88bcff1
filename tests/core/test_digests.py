"""A file is hashed once per content."""

import errno
import os
from pathlib import Path

import pytest

from xtts_finetune.core import digests
from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.files import sha256_file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    hashed: list[Path] = []

    def reading(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", reading)
    return hashed


def test_it_is_read_once(tmp_path: Path, hashed: list[Path]) -> None:
    weights, memory = tmp_path / "model.pth", tmp_path / "work" / "digests.json"
    weights.write_bytes(b"weights")
    assert sha256_once(weights, memory) == sha256_once(weights, memory) == sha256_file(weights)
    assert hashed == [weights]


def test_another_content_is_read_again(tmp_path: Path, hashed: list[Path]) -> None:
    weights, memory = tmp_path / "model.pth", tmp_path / "digests.json"
    for content in (b"weights", b"heavier weights", b"heaviest weights"):
        weights.write_bytes(content)
        assert sha256_once(weights, memory) == sha256_file(weights)
    before = weights.stat()
    replacement = tmp_path / "other"
    replacement.write_bytes(b"lightest weights")  # as many bytes, and the same time: another inode
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(replacement, weights)
    assert sha256_once(weights, memory) == sha256_file(weights)
    assert len(hashed) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"PATH": 5}', '{"PATH": {"seen": [7], "sha256": 5}}'])
def test_a_damaged_memory_costs_a_reading(tmp_path: Path, content: str) -> None:
    weights, memory = tmp_path / "model.pth", tmp_path / "digests.json"
    weights.write_bytes(b"weights")
    memory.write_text(content.replace("PATH", str(weights.resolve()).replace("\\", "\\\\")))
    assert sha256_once(weights, memory) == sha256_file(weights)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_memory_that_cannot_be_written_costs_a_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[Path], number: int
) -> None:
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"weights")

    def full(path: Path, value: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(digests, "write_json", full)
    assert [sha256_once(weights, tmp_path / "digests.json") for _ in range(2)] == [sha256_file(weights)] * 2
    assert len(hashed) == 2
