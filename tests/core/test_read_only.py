"""Files that DVC made read-only, on a system that deletes none of them, as Windows; and on one that does."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core import removal
from xtts_finetune.core.files import discard, published_folder, write_text
from xtts_finetune.core.removal import remove


def refusing(real: Callable[..., None]) -> Callable[..., None]:
    """What Windows makes of a function whose last path is deleted or replaced."""

    def action(*paths: Any, dir_fd: int | None = None, **given: Any) -> None:
        try:
            mode = os.stat(paths[-1], dir_fd=dir_fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            mode = stat.S_IWRITE
        if not mode & stat.S_IWRITE:
            raise PermissionError(errno.EACCES, "Access is denied", str(paths[-1]))
        real(*paths, **({"dir_fd": dir_fd} if dir_fd is not None else {}), **given)

    return action


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "unlink", "replace":
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def protected(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("kept by DVC")
    path.chmod(0o444)
    return path


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("delete", [remove, discard])
def test_it_is_deleted_and_its_other_names_stay(tmp_path: Path, delete: Callable[[Path], None]) -> None:
    cached = protected(tmp_path / "cache" / "0123")
    (tmp_path / "models" / "phase1").mkdir(parents=True)
    os.link(cached, tmp_path / "models" / "phase1" / "model.safetensors")
    delete(tmp_path / "models")
    os.link(cached, tmp_path / "alone")
    delete(tmp_path / "alone")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert cached.read_text() == "kept by DVC"


@pytest.mark.usefixtures("windows")
def test_it_is_replaced(tmp_path: Path) -> None:
    protected(tmp_path / "out" / "old")
    write_text(protected(tmp_path / "a.txt"), "new")
    with published_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["a.txt", "out", "out/new"]
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.usefixtures("windows")
def test_a_done_run_that_came_back_from_the_cache_goes_on(tmp_path: Path) -> None:
    protected(tmp_path / "phase1" / "DONE")
    CheckpointStore(tmp_path / "phase1", keep_last=1).reopen()
    assert not (tmp_path / "phase1" / "DONE").exists()


def test_where_the_folder_refuses_the_file_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    file = protected(tmp_path / "folder" / "a")
    monkeypatch.setattr(os, "unlink", refuse)
    for path in file, file.parent:
        with pytest.raises(PermissionError):
            remove(path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o444


def test_what_somebody_else_deletes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.unlink

    def late(path: Path, **given: Any) -> None:
        real(path, **given)
        real(path, **given)

    for name in "a", "b":
        protected(tmp_path / "folder" / name)
    monkeypatch.setattr(os, "unlink", late)
    remove(tmp_path / "folder" / "a")
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


class Held:
    """What somebody reads on Windows: so many times it is neither deleted nor renamed."""

    def __init__(self, real: Callable[..., None], times: int) -> None:
        self.real, self.times = real, times

    def __call__(self, *paths: Any, **given: Any) -> None:
        if self.times:
            self.times -= 1
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(paths[0]))
        self.real(*paths, **given)


def let_go(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    monkeypatch.setattr(os, name, Held(getattr(os, name), times))
    action()


@pytest.mark.parametrize("name", ["unlink", "rename"])
def test_what_somebody_reads_is_deleted_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As weights are, of a state that retention lets go, while a copy of the model speaks."""
    monkeypatch.setattr(removal, "PATIENCE", 30.0)
    monkeypatch.setattr(removal, "_LOOK", 0.0)
    state = tmp_path / "step-00000100"
    state.mkdir()
    (state / "model.safetensors").write_text("read now")
    let_go(lambda: discard(state), monkeypatch, name, times=3)
    assert not list(tmp_path.iterdir())


def test_what_is_never_closed_is_said_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.1)
    monkeypatch.setattr(removal, "_LOOK", 0.01)
    (tmp_path / "weights").write_text("read for good")
    with pytest.raises(PermissionError, match="cannot access"):
        let_go(lambda: discard(tmp_path / "weights"), monkeypatch, "rename", times=10_000)
    assert (tmp_path / "weights").exists()


def test_what_is_to_be_renamed_and_is_gone_was_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 5.0)
    monkeypatch.setattr(removal, "_LOOK", 0.0)
    with pytest.raises(FileNotFoundError):
        let_go(lambda: removal.rename(tmp_path / "gone", tmp_path / "there"), monkeypatch, "rename", times=1)
