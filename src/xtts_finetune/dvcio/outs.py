"""What dvc.lock says of the workspace."""

import filecmp
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.disk import files_below
from xtts_finetune.core.files import (
    contained,
    discard,
    discard_leftovers,
    link_or_copy,
    published_folder,
    read_json,
)
from xtts_finetune.core.layout import DONE, MODEL_CARD, PHASES, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.look import once_a_look
from xtts_finetune.dvcio.cache import Cache, named_dependencies, named_entries, named_outs, rename_outs


def out_path(workspace: Workspace, place: Path) -> str:
    """How dvc.yaml and dvc.lock call a place in the workspace."""
    return place.relative_to(workspace.root).as_posix()


def cached_files(workspace: Workspace, out: str) -> dict[str, Path]:
    """The files of a folder among the outs in dvc.lock, e.g. models/phase1: their places in DVC's cache, by name.

    Nothing where dvc.lock does not name it, or the cache has lost its listing.
    """
    cache = Cache(workspace)
    listing = cache.listing(named_outs(workspace).get(out, ""))
    return {name: cache.path(oid) for name, oid in listing.items()}


def is_cached(workspace: Workspace, out: str) -> bool:
    """Whether the cache has every file of such a folder."""
    files = cached_files(workspace, out).values()
    return bool(files) and all(file.exists() for file in files)


def name_as_it_is(workspace: Workspace, file: Path) -> None:
    """Have dvc.lock name an out that is not cached as it is now: to `dvc repro` it would be one that was edited.

    Raises:
        UserError: DVC is writing to dvc.lock.
    """
    name = out_path(workspace, file)
    entry = named_entries(workspace).get(name)
    if entry and file.exists():
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        rename_outs(workspace, {name: {**entry, "md5": digest, "size": file.stat().st_size}})


def is_committed(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether DVC's cache has, under dvc.lock's name, every file of the phase's model as it lies in the workspace."""
    model = workspace.model(phase)
    cached = cached_files(workspace, f"models/{phase}")
    names = {file.name for file in model.iterdir()} if model.is_dir() else set()
    return bool(cached) and cached.keys() == names and all(_same(model / name, cached[name]) for name in names)


def relink_finished_work(workspace: Workspace, phase: PhaseName) -> None:
    """Bring a finished phase's work/ back from DVC's cache, as links: so that more epochs can extend it.

    The phase's own outs are gone by now: DVC deletes them before it runs a stage.
    """
    work, files = workspace.work(phase), cached_files(workspace, f"checkpoints/{phase}")
    if any(work.iterdir()) or DONE not in files or not all(file.exists() for file in files.values()):
        return
    with published_folder(work) as folder:
        for name, file in files.items():
            contained(folder, name, "DVC's cache").parent.mkdir(exist_ok=True)
            link_or_copy(file, folder / name)


def is_kept(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether DVC's cache has, under dvc.lock's name, all of the finished phase whose work/ this is."""
    files = cached_files(workspace, f"checkpoints/{phase}")
    done = workspace.work(phase) / DONE
    return DONE in files and all(file.exists() for file in files.values()) and _same(done, files[DONE])


def _same(file: Path, cached: Path) -> bool:
    """Whether both are one file or, where links are impossible, have the same bytes."""
    if not cached.exists():
        return False
    return file.samefile(cached) or filecmp.cmp(file, cached, shallow=False)


def remove_finished_work(workspace: Workspace) -> None:
    """Delete work/ of every done phase whose outs DVC has taken over: its files live on under other names."""
    for phase in PHASES:
        work = workspace.work(phase)
        discard_leftovers(work)
        if is_taken_over(workspace, phase):
            discard(work)


def is_taken_over(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether work/ holds a finished run, and DVC has its model: not that of another run, restored since."""
    reader, card = CheckpointReader(workspace.work(phase)), workspace.model(phase) / MODEL_CARD
    if not reader.done or not is_committed(workspace, phase):
        return False
    figures, exported = reader.summary["figures"], read_json(card)
    best = next((each for each in reader.bests() if each.step == figures["step"]), None)
    is_its_best = best is None or best.manifest[WEIGHTS]["sha256"] == exported["sha256"]
    return is_its_best and all(exported.get(name) == figure for name, figure in figures.items())


@once_a_look
def lost_states(workspace: Workspace) -> Sequence[PhaseName]:
    """Finished phases whose states are gone, here and in DVC's cache, though dvc.lock names them: models/ has the best.

    So it is after going back to a run whose states `clean` has let go.
    """
    cache, named = Cache(workspace), named_outs(workspace)
    return [phase for phase in PHASES if _has_lost_states(workspace, phase, cache, named)]


def _has_lost_states(workspace: Workspace, phase: PhaseName, cache: Cache, named: Mapping[str, str]) -> bool:
    folder = workspace.checkpoints(phase)
    oid = named.get(out_path(workspace, folder))
    if oid is None or cache.path(oid).is_file() or any(files_below(folder)) or workspace.work(phase).is_dir():
        return False
    return is_committed(workspace, phase)


def data_digest(workspace: Workspace) -> str:
    """DVC's digest of the data/ that `prepare` used, by dvc.lock (at most 36 characters).

    data.dvc may be ahead of it: recordings that were added since. "untracked" where dvc.lock does not say.
    """
    return named_dependencies(workspace, "prepare").get(out_path(workspace, workspace.data), "untracked")
