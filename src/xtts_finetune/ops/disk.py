"""`xtts-finetune disk`: what holds the disk, what training has yet to write, and what can go."""

import shutil
from collections.abc import Iterator

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import free_bytes, freed_bytes, mount_point, shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.diskspace.ahead import unfinished
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.diskspace.holdings import holdings
from xtts_finetune.diskspace.parked import parked_runs
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.dvcio.coming_back import coming_back


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


def _held_lines(workspace: Workspace, dvc: Cache) -> Iterator[str]:
    held = {mount_point(workspace.root): {}, **holdings(workspace, dvc)}
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
