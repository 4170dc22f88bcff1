"""Where an export goes: a folder of its own, that nobody else keeps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import discard_leftovers, published_folder, read_json, temporary_name
from xtts_finetune.core.layout import (
    CARD,
    CONFIG,
    COQUI_MODEL,
    COQUI_SPEAKERS,
    DATA_CARD,
    EXPORT_CARD,
    EXPORT_LICENCE,
    LINEAGE,
    VOCABULARY,
    Workspace,
)

PROGRAM = "xtts-finetune"  # in EXPORT_CARD
_PAPERS = {EXPORT_CARD, EXPORT_LICENCE, CARD, LINEAGE, DATA_CARD}
_EXPORTED = {CONFIG, VOCABULARY, COQUI_MODEL, COQUI_SPEAKERS} | _PAPERS
_KEPT = {  # of the workspace, and by whom
    "work": "training",
    "checkpoints": "DVC",
    "models": "DVC",
    "prepared": "DVC",
    "data": "DVC",
    "reports": "DVC",
    "mlruns": "MLflow",
    ".dvc": "DVC",
    ".git": "git",
}


def free_place(workspace: Workspace, folder: Path, force: bool) -> Path:
    """`folder`, whole and without links, when an export may take its place.

    Args:
        force: an earlier export may lie there.

    Raises:
        UserError: it may not; nothing was written.
    """
    try:
        place = folder.resolve()
        problems = list(_problems(workspace, place, force))
    except (OSError, RuntimeError) as error:  # a folder that cannot be read, a loop of links
        place, problems = folder, [_unusable(folder, error)]
    if problems:
        raise UserError("cannot export to there", problems)
    return place


@contextmanager
def published_export(workspace: Workspace, place: Path, force: bool) -> Iterator[Path]:
    """Yield a folder to fill, which then takes `place` where that is still free; one export at a time to there.

    An earlier export that a kill left moved aside is put back first.

    Args:
        place, force: as of `free_place`.

    Raises:
        UserError: another export is under way to there, or something came to be there that is not to be replaced.
    """
    with _held(place):
        discard_leftovers(place)
        free_place(workspace, place, force)
        try:
            with published_folder(place, replaces=force) as folder:
                yield folder
                free_place(workspace, place, force)
        except OSError:
            free_place(workspace, place, force)  # says what came to be there, in the last instant
            raise


@contextmanager
def _held(place: Path) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = Problem(str(place), "another export to there is under way", "wait for it, or name another folder")
        raise UserError("cannot export to there", [problem]) from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # on Windows, where the file of a lock that is held cannot go
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it sees that, and makes another
        lock.release()


def _problems(workspace: Workspace, place: Path, force: bool) -> Iterator[Problem]:
    where, elsewhere = str(place), "name another folder"
    for name, keeper in _KEPT.items():
        if place.is_relative_to((workspace.root / name).resolve()):
            yield Problem(where, f"is in {name}/, which {keeper} keeps", elsewhere)
    if place.is_dir():
        others = sorted(set(os.listdir(place)) - _EXPORTED)
        if os.path.ismount(place):
            yield Problem(where, "is where a disk is mounted, and not to be replaced", "name a folder in it")
        elif others or (any(place.iterdir()) and not _is_export(place)):
            held = ", ".join(others[:3]) or "no export"
            yield Problem(where, f"holds other files, which would be lost: {held}", elsewhere)
        elif any(place.iterdir()) and not force:
            yield Problem(where, "holds an earlier export", f"{elsewhere}, or replace it: --force")
    elif place.exists():
        yield Problem(where, "is a file", elsewhere)
    yield from _refusals(place)


def _refusals(place: Path) -> Iterator[Problem]:
    """What the file system has against it: tried out, nothing stays."""
    above = next((folder for folder in place.parents if folder.exists()), place)
    for name in place.relative_to(above).parts:
        probe = temporary_name(above / name)
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            if not is_disk_full(error):  # preflight says by how much
                yield _unusable(place, error)


def _is_export(place: Path) -> bool:
    try:
        return bool(read_json(place / EXPORT_CARD)["program"] == PROGRAM)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unusable(folder: Path, error: Exception) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(str(folder), f"cannot be used: {reason}", "name another folder")
