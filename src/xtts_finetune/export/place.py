"""Where an export goes: a folder of its own, that nobody else keeps."""

import os
from collections.abc import Iterator
from pathlib import Path

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, temporary_name
from xtts_finetune.core.layout import (
    CONFIG,
    COQUI_MODEL,
    COQUI_SPEAKERS,
    EXPORT_CARD,
    EXPORT_LICENCE,
    EXPORT_PAGE,
    VOCABULARY,
    Workspace,
)

PROGRAM = "xtts-finetune"  # in EXPORT_CARD
_EXPORTED = {CONFIG, VOCABULARY, COQUI_MODEL, COQUI_SPEAKERS, EXPORT_CARD, EXPORT_PAGE, EXPORT_LICENCE}
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
