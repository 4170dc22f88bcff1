"""`xtts-finetune disk`: what holds the disk, what training has yet to write, and what can go."""

import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import files_below, free_bytes, freed_bytes, held_bytes, mount_point, shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.diskspace.ahead import unfinished
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.diskspace.parked import parked_runs
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.dvcio.coming_back import coming_back

Held = dict[Path, dict[str, int]]  # by file system (where it is mounted) and part: bytes


def disk_text(workspace: Workspace) -> str:
    """Per file system what is free and what holds it; the peak of every phase to come; what `clean` frees.

    Raises:
        UserError: DVC's configuration cannot be used, or this is no checkout.
    """
    dvc = Cache(workspace)
    return "\n".join(
        [
            *_held_lines(workspace, dvc),
            *_phase_lines(workspace, dvc),
            *_parked_lines(workspace),
            *_clean_lines(workspace),
        ]
    )


def _parts(workspace: Workspace, cache: Cache) -> list[tuple[str, Path]]:
    """A file with several names counts under the first of these that has it: what is kept longest comes first."""
    return [
        ("data/", workspace.data),
        ("base/", workspace.base),
        ("prepared/", workspace.prepared),
        ("models/", workspace.model("phase1").parent),
        ("mlruns/", workspace.tracking_db.parent),
        ("checkpoints/", workspace.checkpoints("phase1").parent),
        ("work/", workspace.work("phase1").parent),
        ("reports/", workspace.reports),
        ("DVC's cache, for earlier runs", cache.root),
    ]


def _held(workspace: Workspace, dvc: Cache) -> Held:
    held: Held = {}
    counted: set[tuple[int, int]] = set()
    for part, folder in _parts(workspace, dvc):
        files = (_within(dvc.root, file) for file in files_below(folder.resolve()))
        for disk, group in _by_disk(files).items():
            held.setdefault(disk, {})[part] = held_bytes(group, counted)
    return held


def _within(cache_folder: Path, file: Path) -> Path:
    """The file itself, where DVC has put a symlink to it; it is of the part that has the link."""
    target = file.resolve() if file.is_symlink() else file
    return target if target.is_relative_to(cache_folder.resolve()) else file


def _by_disk(files: Iterable[Path]) -> dict[Path, list[Path]]:
    disk_of = cache(mount_point)
    groups: dict[Path, list[Path]] = {}
    for file in files:
        groups.setdefault(disk_of(file.parent), []).append(file)
    return groups


def _held_lines(workspace: Workspace, dvc: Cache) -> Iterator[str]:
    held = {mount_point(workspace.root): {}, **_held(workspace, dvc)}
    for disk, parts in held.items():
        ours = sum(parts.values())
        yield f"{disk}: {shown(free_bytes(disk))} free"
        yield from (_row(part, size) for part, size in parts.items() if size)
        yield _row("together", ours)
        yield _row("all else on this disk", max(0, shutil.disk_usage(disk).used - ours))
        yield ""


def _phase_lines(workspace: Workspace, dvc: Cache) -> Iterator[str]:
    try:
        budget = Budget(workspace, load_params(workspace.params), dvc)
    except UserError as error:
        if not workspace.params.exists():
            raise
        yield f"what training needs is not known: {error}\n"
        return
    back = coming_back(workspace)
    ahead = [phase for phase in unfinished(workspace, budget.params) if phase not in back]
    if not ahead:
        yield "no phase is left to be trained"
    for at, phase in enumerate(ahead):
        demands = budget.peak(phase, before=ahead[:at])
        if not demands:
            yield f"{phase}: what it needs is not known before prepare has opened the base (dvc repro prepare)"
        for demand in demands:
            verdict = f"does not fit on {demand.disk}" if demand.missing else f"fits on {demand.disk}"
            yield f"{phase}{f', after {ahead[at - 1]}' if at else ''}: {verdict}"
            yield from (f"    {line}" for line in demand.lines())
    yield ""


def _parked_lines(workspace: Workspace) -> Iterator[str]:
    runs = parked_runs(workspace)
    if not runs:
        return
    yield "parked runs, of other parameters: each goes only by its command"
    for parked in runs:
        yield _row(parked.command, freed_bytes(parked.files))
        yield f"        {parked}"
    yield ""


def _clean_lines(workspace: Workspace) -> Iterator[str]:
    ways = [way for way in ways_to_make_room(workspace) if way.bytes]
    if not ways:
        yield "nothing can go"
        return
    yield "what can go (without --yes the command shows it piece by piece)"
    for way in ways:
        yield _row(way.request.command, way.bytes)
        if way.request.history:
            yield "        with the states that HEAD, branches and tags name, and the runs that only earlier commits do"


def _row(part: str, size: int) -> str:
    return f"    {as_typed(part):<57}{shown(size):>11}"
