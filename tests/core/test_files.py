"""Files that are whole or not there, whatever happens while they are written."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import (
    contained,
    discard,
    discard_leftovers,
    link_or_copy,
    published_file,
    published_folder,
    read_json,
    scratch_folder,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from xtts_finetune.core.processes import ProcessMark
from xtts_finetune.core.removal import remove


class Interrupted(BaseException):
    """Ctrl-C and the like: no Exception."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    write_text(path, "one\n")
    write_text(path, "zwei: ü\n")
    assert path.read_bytes() == "zwei: ü\n".encode()
    assert names(tmp_path) == ["new folder", "new folder/a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted()])
@pytest.mark.parametrize("existing", [True, False])
def test_a_file_is_not_replaced_by_half_of_one(tmp_path: Path, error: BaseException, existing: bool) -> None:
    path = tmp_path / "a.txt"
    if existing:
        path.write_text("whole")
    with pytest.raises(type(error)), published_file(path) as temporary:
        temporary.write_text("ha")
        assert path.exists() is existing
        raise error
    assert names(tmp_path) == (["a.txt"] if existing else [])
    assert not existing or path.read_text() == "whole"


def test_a_file_that_was_never_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), published_file(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_linked_file_keeps_its_other_name(tmp_path: Path) -> None:
    """DVC's cache and the registry hold second names of published files."""
    path = tmp_path / "a.txt"
    path.write_text("cached")
    link_or_copy(path, tmp_path / "cache")
    path.chmod(0o444)
    write_text(path, "new")
    assert (path.read_text(), (tmp_path / "cache").read_text()) == ("new", "cached")


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with published_folder(path) as folder:
        assert not path.exists()
        (folder / "old").write_text("old")
        (folder / "old").chmod(0o444)
    with published_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "new").write_text("new")
        assert names(path) == ["old"]  # in place until the new one is whole
    assert names(tmp_path) == ["out", "out/sub", "out/sub/new"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted()])
@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_is_not_replaced_by_half_of_one(tmp_path: Path, error: BaseException, existing: bool) -> None:
    path = tmp_path / "out"
    if existing:
        path.mkdir()
        (path / "old").write_text("old")
    with pytest.raises(type(error)), published_folder(path) as folder:
        (folder / "new").write_text("ha")
        raise error
    assert names(tmp_path) == (["out", "out/old"] if existing else [])


@pytest.mark.parametrize("publish", [published_file, published_folder])
def test_content_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    """Else a power cut could leave a name for bytes that never got there."""
    path = tmp_path / "out"
    done: list[str] = []
    for module, name, label in ((os, "fsync", "fsync"), (os, "rename", "name"), (os, "replace", "name")):
        real = getattr(module, name)

        def spy(*args: object, real: Callable[..., None] = real, label: str = label) -> None:
            done.append(label)
            real(*args)

        monkeypatch.setattr(module, name, spy)
    with publish(path) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("content")
    inside = 2 if path.is_dir() else 1  # a folder's file and the folder; the file
    assert done == ["fsync"] * inside + ["name", "fsync"]


def mark_of(process: "subprocess.Popen[str]") -> str:
    """What a child wrote down about itself."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def child() -> Iterator["subprocess.Popen[str]"]:
    """A process that says who it is, and lives until it is killed."""
    code = "import time; from xtts_finetune.core.processes import ProcessMark as M; print(M.own(), flush=True)"
    command = [sys.executable, "-c", f"{code}; time.sleep(600)"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("publish", [published_file, published_folder])
def test_what_a_kill_left_beside_it_goes(
    tmp_path: Path, publish: Callable[[Path], AbstractContextManager[Path]], child: "subprocess.Popen[str]"
) -> None:
    """A dead process's; not what one that lives is writing, nor what only looks alike."""
    dead = mark_of(child)
    child.kill()  # and not waited for: a zombie writes nothing any more
    while ProcessMark.parse(dead).is_alive:  # type: ignore[union-attr]
        pass
    (tmp_path / f".out.{dead}.tmp").write_text("half")
    (tmp_path / f".out.{dead}.1a2b.tmp").mkdir()
    (tmp_path / f".out.{dead}.1a2b.tmp" / "a").write_text("half")
    others = [".out.1.tmp", ".out.csv.4711.tmp", "out.4711.tmp", f".other.{dead}.tmp", f".out.csv.{dead}.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    with publish(tmp_path / "out") as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("content")
    left = [name for name in names(tmp_path) if not name.startswith("out/")]
    assert left == sorted([*others, "out"])


def test_whose_leftovers_stay(tmp_path: Path, child: "subprocess.Popen[str]") -> None:
    """A number alone proves nothing: it is given again on this host, and means another process on another."""
    alive = ProcessMark.parse(mark_of(child))
    assert alive is not None
    recycled, elsewhere = replace(alive, started=alive.started - 1), replace(alive, host="0" * 8, pid=2**22 + 1)
    for mark in (alive, recycled, elsewhere):
        (tmp_path / f".out.{mark}.1a2b.tmp").touch()
    discard_leftovers(tmp_path / "out")
    assert names(tmp_path) == sorted(f".out.{mark}.1a2b.tmp" for mark in (alive, elsewhere))


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    real = os.rename

    def refuse(source: Path, target: Path) -> None:
        if target == path and (source / "new").exists():
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"), published_folder(path) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out", "out/old"]


def replaced_by_a_process_that_dies(path: Path, name: str) -> None:
    """At its second call of `os.<name>`: what was the second rename, or the removal of what was replaced."""
    code = f"""
import os, sys
from pathlib import Path
from xtts_finetune.core.files import published_folder
real, calls = os.{name}, []
def die(*arguments, **options):
    calls.append(arguments)
    if len(calls) == 2:
        os._exit(9)
    return real(*arguments, **options)
with published_folder(Path(sys.argv[1])) as folder:
    (folder / "new").touch()
    os.{name} = die
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment).returncode == 9


def folder_of(path: Path, *files: str) -> None:
    path.mkdir()
    for name in files:
        (path / name).write_text(name)


def test_a_folder_that_was_moved_aside_when_a_kill_came_has_its_name_again(tmp_path: Path) -> None:
    path = tmp_path / "out"
    folder_of(path, "old")
    replaced_by_a_process_that_dies(path, "rename")
    assert not path.exists()
    with pytest.raises(OSError, match="not empty"), published_folder(path, replaces=False) as folder:
        assert names(path) == ["old"]
        (folder / "new").touch()
    assert names(tmp_path) == ["out", "out/old"]


def test_what_was_half_removed_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    folder_of(path, "a", "b", "c")
    replaced_by_a_process_that_dies(path, "unlink")
    assert names(path) == ["new"]
    discard(path)
    discard_leftovers(path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("theirs", ["file", "folder"])
def test_a_folder_that_is_to_replace_nothing(tmp_path: Path, theirs: str) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError), published_folder(path, replaces=False) as folder:
        (folder / "new").touch()
        if theirs == "file":
            path.touch()
        else:
            folder_of(path, "theirs")
    assert names(tmp_path) == (["out"] if theirs == "file" else ["out", "out/theirs"])
    remove(path)
    with published_folder(path, replaces=False) as folder:
        (folder / "new").touch()
        path.mkdir()  # an empty one is as good as none
    assert names(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("kind", ["folder", "file", "link", "nothing"])
def test_discarded(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "out", tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    if kind == "folder":
        path.mkdir()
        (path / "a").touch()
    elif kind == "file":
        path.touch()
    elif kind == "link":
        path.symlink_to(target)
    discard(path)
    assert names(tmp_path) == ["target", "target/kept"]


def test_half_discarded_is_gone_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise Interrupted

    (tmp_path / "out").mkdir()
    monkeypatch.setattr("xtts_finetune.core.files.shutil.rmtree", die)
    with pytest.raises(Interrupted):
        discard(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scratch_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), scratch_folder(tmp_path / "new" / "register") as folder:
        assert folder.parent == tmp_path / "new"
        (folder / "a").touch()
        raise Interrupted
    assert names(tmp_path) == ["new"]


def test_json_is_the_same_for_the_same_value(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "vöice"}
    write_json(tmp_path / "one", value)
    write_json(tmp_path / "other", dict(reversed(value.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert "vöice" in (tmp_path / "one").read_text(encoding="utf-8")
    assert read_json(tmp_path / "one") == value


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})


def test_links_where_the_file_system_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a"
    assert not (tmp_path / "c").samefile(tmp_path / "a")


@pytest.mark.skipif(os.name == "nt", reason="needs a right there")
@pytest.mark.parametrize("can_link", [True, False])
def test_of_a_symlink_the_file_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool) -> None:
    """DVC's may lead into a cache on another disk, and gc may empty that."""
    (tmp_path / "cached").write_text("a")
    (tmp_path / "a").symlink_to("cached")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    (tmp_path / "cached").unlink()
    assert not (tmp_path / "b").is_symlink()
    assert (tmp_path / "b").read_text() == "a"


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "link/x"])
def test_paths_that_leave_their_folder(tmp_path: Path, relative: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="points outside") as error:
        contained(folder, relative, "metadata.csv:3")
    assert error.value.problems[0].where == "metadata.csv:3"
    assert contained(folder, "wavs/../a.wav", "x") == folder / "wavs/../a.wav"
