"""What a full disk looks like, and what files hold and free."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disks import small_disk

from xtts_finetune.core.disk import (
    Reserve,
    can_link,
    file_system,
    files_below,
    free_bytes,
    freed_bytes,
    held_bytes,
    is_disk_full,
    is_refused,
    mount_point,
    shown,
)


class SafetensorError(Exception):
    """As safetensors raises it: no OSError, the number in the text alone."""


def in_context() -> BaseException:
    """As torch.save raises it: a RuntimeError that hides the OSError."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 640 vs 534")
    except RuntimeError as error:
        return error


def caused() -> BaseException:
    error = ValueError("could not save")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    return error


def circular() -> BaseException:
    error, other = ValueError("one"), ValueError("other")
    error.__context__, other.__context__ = other, error
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        in_context(),
        caused(),
    ],
    ids=repr,
)
def test_a_full_disk_is_known_however_it_is_wrapped(error: BaseException) -> None:
    assert is_disk_full(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.ENOENT, "No such file or directory", "no space left on device.txt"),
        RuntimeError("unexpected pos 640 vs 534"),
        SafetensorError("I/O error: Input/output error (os error 5)"),
        ValueError("os error 281"),
        circular(),
    ],
    ids=repr,
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert not is_disk_full(error)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (SafetensorError("Error while serializing: I/O error: Read-only file system (os error 30)"), True),
        (RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (SafetensorError("I/O error: Input/output error (os error 5)"), False),
    ],
    ids=repr,
)
def test_what_may_not_be_written(error: BaseException, refused: bool) -> None:
    assert is_refused(error) == refused


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Two files of 100 kB, one of them under two names."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(os.urandom(100_000))
    (tmp_path / "deep").mkdir()
    os.link(tmp_path / "a", tmp_path / "deep" / "a again")
    return tmp_path


def test_a_file_with_two_names_is_held_once(linked: Path) -> None:
    assert held_bytes(files_below(linked)) == pytest.approx(200_000, rel=0.05)
    counted: set[tuple[int, int]] = set()
    assert held_bytes([linked / "a"], counted) == pytest.approx(100_000, rel=0.05)
    assert held_bytes([linked / "deep" / "a again"], counted) == 0


def test_a_file_is_freed_with_its_last_name(linked: Path) -> None:
    assert freed_bytes([linked / "a"]) == 0
    assert freed_bytes([linked / "a", linked / "a"]) == 0
    assert freed_bytes([linked / "a", linked / "deep" / "a again"]) == pytest.approx(100_000, rel=0.05)
    assert freed_bytes(files_below(linked)) == pytest.approx(200_000, rel=0.05)


def test_links_are_not_followed(linked: Path) -> None:
    (linked / "to b").symlink_to(linked / "b")
    (linked / "to deep").symlink_to(linked / "deep")
    assert held_bytes([linked / "to b"]) < 10_000
    assert [file for file in files_below(linked) if "to deep" in file.parts] == []
    assert list(files_below(linked / "to b")) == [linked / "to b"]
    assert list(files_below(linked / "nothing")) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1 kB"), (5_292_000_000, "5.29 GB"), (39_000_000_000, "39 GB")),
        *((123_456_789, "123 MB"), (999_600, "1 MB"), (-2_700_000_000, "-2.7 GB"), (4_000_000_000_000, "4 TB")),
    ],
)
def test_sizes_are_shown_in_decimal_units(size: int, text: str) -> None:
    assert shown(size) == text


def test_a_reserve_takes_room_and_gives_it_back(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    assert (reserve.held, free_bytes(tmp_path) > 0) == (0, True)
    assert reserve.hold(3_000_000)
    assert reserve.held == 3_000_000
    assert held_bytes([reserve.path]) == pytest.approx(3_000_000, rel=0.05)
    assert reserve.hold(1_000_000)
    assert reserve.held == 1_000_000
    reserve.release()
    reserve.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="NTFS takes the room at once")
def test_a_reserve_takes_room_where_the_system_cannot_allocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where a file that is only made longer is a hole."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.hold(3_000_000)
    assert reserve.held == 3_000_000
    assert reserve.path.stat().st_blocks * 512 >= 3_000_000
    reserve.release()
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        assert not Reserve(disk.root / "reserve").hold(2_000_000)
        assert list(disk.root.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="the limit of a process's file sizes is POSIX's")
def test_a_reserve_without_room_holds_nothing(tmp_path: Path, limited: Callable[[int], None]) -> None:
    limited(1_000_000)
    assert not Reserve(tmp_path / "reserve").hold(2_000_000)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Limit the sizes of the files that this process writes, as a quota would; lifted after the test."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_a_run_removes_meanwhile_counts_nothing(linked: Path) -> None:
    files = [linked / "b", linked / "gone"]
    assert held_bytes(files) == freed_bytes(files) == pytest.approx(100_000, rel=0.05)


def test_whether_links_are_possible_is_tried_out(tmp_path: Path) -> None:
    assert can_link(tmp_path / "work", tmp_path / "models" / "phase1")
    assert list(tmp_path.iterdir()) == []
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        assert not can_link(tmp_path, disk.root / "work")
        assert not can_link(disk.root, tmp_path / "work")
        assert can_link(disk.root, disk.root / "work")
        assert list(disk.root.iterdir()) == []
        assert list(tmp_path.iterdir()) == [disk.root]


def test_a_disk_is_called_by_where_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "work").symlink_to(tmp_path / "disk" / "far" / "away")
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        (disk.root / "far" / "away").mkdir(parents=True)
        assert mount_point(tmp_path / "work" / "phase1") == disk.root
        assert mount_point(tmp_path) != disk.root
        assert file_system(mount_point(tmp_path)) == file_system(tmp_path)
