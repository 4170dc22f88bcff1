"""Files that are either whole or not there: write beside, fsync, rename."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.processes import ProcessMark
from xtts_finetune.core.removal import remove, rename, replace

_ASIDE = ".aside.tmp"  # ends the name of what is whole, and was moved aside for what is to take its place
_TEMPORARY = re.compile(r"\.(.+)\.(\d+-\d+-[0-9a-f]{8})(?:\.[0-9a-f]+)?(?:\.aside)?\.tmp")  # for which name, by whom


def fsync_path(path: Path) -> None:
    """Force a file's or folder's content to the disk.

    Windows can do so only for what it can open to write: not for folders and files that DVC made read-only.
    """
    if os.name == "nt" and (path.is_dir() or not os.access(path, os.W_OK)):
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(path: Path) -> None:
    """Have the next read of a file that was fsynced come from the disk, where the system can be told so."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; on success it is fsynced and renamed over `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    discard_leftovers(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        fsync_path(temporary)
        replace(temporary, path)
        fsync_path(path.parent)
    finally:
        remove(temporary)


@contextmanager
def published_folder(path: Path, replaces: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill; on success it is fsynced and takes the place of `path`, else removed.

    An existing `path` stays in place until the new folder is whole, and is then moved aside. After a kill in the
    instant between the two renames nothing has the name, until `discard_leftovers` puts back what was moved aside.

    Args:
        replaces: whether it takes the place of more than nothing, or an empty folder.

    Raises:
        OSError: it does not, and more is there.
    """
    with scratch_folder(path) as temporary:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            fsync_path(file)
        fsync_path(temporary)
        if replaces:
            _take_place(temporary, path)
        else:
            _take_empty_place(temporary, path)
        fsync_path(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which need not exist; it is removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    discard_leftovers(path)
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        remove(temporary)


def discard(path: Path) -> None:
    """Delete a file, or a folder with all in it: killed half-way, nothing of it stands under its name any more."""
    if os.path.lexists(path):
        aside = temporary_name(path)
        rename(path, aside)
        remove(aside)


def _take_place(temporary: Path, path: Path) -> None:
    """Rename a folder; what stands there is moved aside first, and comes back where that fails."""
    if not os.path.lexists(path):
        rename(temporary, path)
        return
    aside = temporary_name(path).with_suffix(_ASIDE)
    rename(path, aside)
    try:
        rename(temporary, path)
    except BaseException:
        os.rename(aside, path)
        raise
    gone = temporary_name(path)
    rename(aside, gone)  # from here on it is not whole any more
    remove(gone)


def _take_empty_place(temporary: Path, path: Path) -> None:
    """Rename a folder to where nothing is, or an empty one.

    Raises:
        OSError: more is there.
    """
    if os.path.lexists(path):
        path.rmdir()
    os.rename(temporary, path)  # POSIX refuses where somebody was faster, too


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other has; once this process is dead, `discard_leftovers` deletes what has it."""
    return path.parent / f".{path.name}.{ProcessMark.own()}.{secrets.token_hex(4)}.tmp"


def temporary_for(path: Path) -> str | None:
    """The name that something half-written is to get, or that something half-deleted had; None: it is neither."""
    match = _TEMPORARY.fullmatch(path.name)
    return match[1] if match else None


def leftovers_in(folder: Path) -> Iterator[Path]:
    """What processes of this host that are dead left half-written or half-deleted in `folder`.

    What those of another host left on a shared disk is not among it: they may be at work.
    """
    return (path for path, writer in _temporaries(folder) if _is_dead(writer))


def discard_leftovers(path: Path) -> None:
    """Delete what of `leftovers_in` its folder was to be `path`. Only for who writes it now.

    What was `path`, and was moved aside by who was killed before another took its place, is `path` again.
    """
    for leftover, writer in _temporaries(path.parent):
        # of our own: it writes a path once at a time, and failed to remove it
        if temporary_for(leftover) != path.name or not (writer == ProcessMark.own() or _is_dead(writer)):
            continue
        if leftover.name.endswith(_ASIDE) and not os.path.lexists(path):
            os.rename(leftover, path)
            fsync_path(path.parent)
        else:
            remove(leftover)


def _temporaries(folder: Path) -> Iterator[tuple[Path, ProcessMark]]:
    """With who writes or deletes each."""
    for path in sorted(folder.glob(".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        writer = ProcessMark.parse(match[2]) if match else None
        if writer:
            yield path, writer


def _is_dead(writer: ProcessMark) -> bool:
    return writer.is_of_this_host and not writer.is_alive


def write_text(path: Path, text: str) -> None:
    """Publish a UTF-8 text file with LF line ends."""
    with published_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON with sorted keys: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_object(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is not there, damaged, or no object."""
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Digest of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name; where the file system can't (other device, FAT), copy it.

    Of a symlink (into DVC's cache, which gc may empty) the file itself is linked. Linked files share their bytes: never
    write to one in place, publish over it instead.
    """
    source = source.resolve()  # os.link alone would make a second symlink
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        shutil.copy2(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Give every file below `source` a second name below `target`, a folder that is made where there is none.

    Raises:
        FileNotFoundError: there is no folder `source`.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}")
    target.mkdir(exist_ok=True)
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            link_or_copy(path, target / path.relative_to(source))


def contained(folder: Path, relative: str, where: str) -> Path:
    """`folder / relative`, refused when it would leave `folder`.

    Raises:
        UserError: the path is absolute, climbs out with "..", or follows a link out; `where` names its origin.
    """
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        remedy = f"use a path inside {folder.name}/"
        raise UserError("a path leaves its folder", [Problem(where, f"{relative!r} points outside {folder}", remedy)])
    return path
