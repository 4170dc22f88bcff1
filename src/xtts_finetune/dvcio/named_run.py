"""Whether the workspace is the run that dvc.lock names. Where it is not, `dvc gc` could delete the only copy of it."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.disk import files_below
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.dvcio.cache import Cache, Listing, named_outs, uncached_outs
from xtts_finetune.dvcio.command import changed_stages
from xtts_finetune.dvcio.outs import out_path


def refuse_unless_named(workspace: Workspace, pruned_is_fine: bool, lost: Collection[PhaseName] = ()) -> None:
    """Ask DVC whether the outs are as dvc.lock names them. Changed parameters, sources and recordings are no matter.

    An out may be missing when its stage is to run again or its phase is under way, as DVC deletes outs before it runs
    a stage: then all that dvc.lock names of it must be in the cache, which `dvc gc` leaves there.

    Args:
        pruned_is_fine: checkpoints/<phase>/ may have lost files, as when clean was killed, but none may differ.
        lost: phases whose states are gone everywhere; dvc.lock is about to say so.

    Raises:
        UserError: they are not, or DVC cannot say.
    """
    cache, named = Cache(workspace), named_outs(workspace)
    others: dict[str, list[tuple[str, str]]] = {}  # how they differ → outs and their stages
    for stage, out, how, reruns in _changed_outs(workspace):
        listing = cache.listing(named.get(out, ""))
        if how == "deleted" and (reruns or _is_under_way(workspace, stage)) and _is_cached(cache, named.get(out)):
            continue
        if any(out == out_path(workspace, workspace.checkpoints(phase)) for phase in lost):
            continue
        if pruned_is_fine and out.startswith("checkpoints/") and _is_part_of(workspace.root / out, listing, cache):
            continue
        others.setdefault(how, []).append((out, stage))
    if others:
        problems = [_problem(how, outs) for how, outs in others.items()]
        raise UserError("the workspace is not the run that dvc.lock names; DVC's cache was left alone", problems)


def _problem(how: str, outs: list[tuple[str, str]]) -> Problem:
    """Of all outs that differ alike: they have one remedy."""
    where = ", ".join(out for out, _ in outs)
    verb = "is" if len(outs) == 1 else "are"
    remedy = "finish the run (dvc repro), or take back what dvc.lock names (dvc checkout)"
    if how != "deleted":
        stages = " ".join(dict.fromkeys(stage for _, stage in outs))
        remedy += f", or keep what is here (dvc commit -f {stages})"
    return Problem(where, f"{verb} {how}, compared with dvc.lock", remedy)


def _changed_outs(workspace: Workspace) -> Iterator[tuple[str, str, str, bool]]:
    """Stage, out, how it differs, and whether the stage would run again anyway."""
    uncached = uncached_outs(workspace)
    for stage, changes in changed_stages(workspace).items():
        if stage.endswith(".dvc"):
            continue  # recordings not added yet; those that it names stay in the cache
        reruns = any(not isinstance(change, dict) or "changed deps" in change for change in changes)
        for change in (change for change in changes if isinstance(change, dict)):
            outs: dict[str, Any] = change.get("changed outs", {})
            yield from ((stage, out, how, reruns) for out, how in outs.items() if out not in uncached)


def _is_under_way(workspace: Workspace, stage: str) -> bool:
    name = stage.removeprefix("train_")
    return any(phase == name and workspace.work(phase).is_dir() for phase in PHASES)


def _is_cached(cache: Cache, oid: str | None) -> bool:
    """Whether all of it is there; of nothing, it is."""
    needed = cache.below([oid] if oid else [])
    return len(cache.paths(needed)) == len(needed)


def _is_part_of(folder: Path, listing: Listing, cache: Cache) -> bool:
    """Whether every file below `folder` is the one that the listing names."""
    if not folder.is_dir() or not listing:
        return False
    files = {file.relative_to(folder).as_posix(): file for file in files_below(folder)}
    return all(path in listing and _is_same(file, cache.path(listing[path])) for path, file in files.items())


def _is_same(file: Path, stored: Path) -> bool:
    if stored.exists() and file.samefile(stored):
        return True
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == stored.parent.name + stored.name
