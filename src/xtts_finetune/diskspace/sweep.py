"""Doing what a plan to free room says.

In this order, so that a kill at any point costs nothing and the next run goes on: delete in the workspace, let dvc.lock
name what is left, have `dvc gc` delete from the cache what nothing names any longer.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import yaml

from xtts_finetune.checkpoints.lock import trainers_kept_out
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.disk import Reserve, file_system, free_bytes, is_disk_full, shown
from xtts_finetune.core.files import discard
from xtts_finetune.core.layout import MANIFEST, PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.core.removal import remove
from xtts_finetune.diskspace.plan import Plan, Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.dvcio.cache import Cache, rename_outs
from xtts_finetune.dvcio.command import ROOM, dvc
from xtts_finetune.dvcio.history import has_other_states_than_head
from xtts_finetune.dvcio.named_run import refuse_unless_named
from xtts_finetune.tracking.backlog import set_aside, set_aside_run

COMMIT = "commit dvc.lock: it names what is here now (git commit -m 'Other states' dvc.lock)"
_SAFE = ".kept-by-clean"  # a folder, while `dvc gc` runs: with a .dvc file, so that it keeps what that names


class Keeper(Protocol):
    """Who takes over what is deleted here."""

    def secure(self, going: Plan) -> Iterator[str]:
        """Take it; called before anything is deleted, and raises if it must not be."""

    def remember(self, going: Plan) -> None:
        """Write down what dvc.lock names, which is about to be forgotten; now there is room for it."""


def sweep(workspace: Workspace, request: Request, keeper: Keeper | None = None) -> Iterator[str]:
    """Free what the request lets go, and tell what is done.

    Raises:
        UserError: the workspace is not as dvc.lock names it, or DVC fails or is at work. Nothing was deleted then,
            or what was is no loss, and the same command goes on.
    """
    with trainers_kept_out(workspace) as live:
        remove(workspace.root / _SAFE)  # of a run that was killed
        before = free_by_place(workspace)
        _keep_for_mlflow(workspace, live)
        going = make_plan(workspace, request, verify=True, live=live)
        _release_reserves(workspace, live)
        refuse_unless_named(workspace, pruned_is_fine=True, lost=going.lost)
        if keeper:
            yield from keeper.secure(going)
        yield from plan_lines(going)
        _delete(workspace, going)
        _make_room(workspace, going)
        if keeper:
            keeper.remember(going)
        _collect(workspace, going)
        if going.items:
            yield ""
            yield from _gained(workspace, before, going)
        if going.outs or has_other_states_than_head(workspace):  # also of a run of this that was killed
            yield COMMIT


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan for a reader."""
    title = plan.request.option.replace("_", "-")
    yield f"{title}: frees {shown(plan.bytes)}" if plan.items else f"{title}: nothing to free"
    if plan.lost:
        phases = " and ".join(sorted(plan.lost))
        yield f"  the states of {phases} are not here (dvc pull, if a remote has them): dvc.lock will name it without"
    for item in plan.items:
        yield f"  {shown(item.bytes):>9}  {item.what}: {item.why}"
        if item.again:
            yield f"  {'':>9}  makes it again: {item.again}"
    for kept in plan.kept:
        yield f"  {'stays':>9}  {kept.what}, {shown(kept.bytes)}: {kept.why}"


def free_by_place(workspace: Workspace) -> dict[Path, int]:
    """Bytes free on every file system that the project lies on, by one of its places there."""
    places = [workspace.root, workspace.work("phase1"), workspace.checkpoints("phase1"), Cache(workspace).folder]
    chosen = {file_system(place): place for place in reversed(places)}
    return {place: free_bytes(place) for place in chosen.values()}


def _keep_for_mlflow(workspace: Workspace, live: Collection[PhaseName]) -> None:
    """What MLflow lacks of phases that go. Before the plan is made: it may wait for somebody who delivers."""
    try:
        set_aside(workspace)
    except OSError as error:
        if not is_disk_full(error):
            raise
        _release_reserves(workspace, live)
        set_aside(workspace)


def _release_reserves(workspace: Workspace, live: Collection[PhaseName]) -> None:
    """First of all: on a full disk DVC has no room to say whether the workspace is as it names it."""
    if not live:  # a stage that runs may need its page
        Reserve(workspace.page_reserve).release()
    for phase in set(PHASES) - set(live):
        Reserve(reserve_of(workspace.work(phase))).release()


def _delete(workspace: Workspace, going: Plan) -> None:
    """Delete files and folders; a manifest first, so that what a kill leaves of a state does not count as one.

    A whole run goes at once: a kill must not leave its best without its states, which would look like damage.
    """
    works = [workspace.work(phase) for phase in PHASES]
    for path in (path for item in going.items for path in item.paths):
        if path in works:
            if not CheckpointReader(path).done:
                remove(workspace.stopped)  # which says that dvc repro resumes there
            set_aside_run(workspace, path)
            discard(path)
            continue
        if path.is_dir() and not path.is_symlink():
            remove(path / MANIFEST)
        remove(path)


def _collect(workspace: Workspace, going: Plan) -> None:
    """Let dvc.lock name what is left, and DVC delete the rest from its cache."""
    if not going.outs and not any(item.objects for item in going.items):
        return
    cache = Cache(workspace)
    for phase in going.lost:
        workspace.checkpoints(phase).mkdir(parents=True, exist_ok=True)  # as an empty folder dvc.lock will name it
    if going.outs:
        rename_outs(workspace, {out: cache.add(listing) for out, listing in going.outs.items()})
    refuse_unless_named(workspace, pruned_is_fine=False)
    with _safe(workspace, going.safe):
        dvc(workspace, "gc", "--workspace", "--force")


def _make_room(workspace: Workspace, going: Plan) -> None:
    """On a full disk, delete some of what `dvc gc` would: files lose their last name only there. Listings stay."""
    doomed = [path for item in going.items for path in item.objects if path.suffix != ".dir"]
    for path in sorted(doomed, key=lambda path: path.stat().st_size, reverse=True):
        if free_bytes(workspace.root) >= ROOM:
            return
        remove(path)


@contextmanager
def _safe(workspace: Workspace, objects: Iterable[str]) -> Iterator[None]:
    """Have `dvc gc` keep these objects, which nothing else in the workspace names."""
    folder = workspace.root / _SAFE
    folder.mkdir()
    try:
        outs = [{"md5": oid, "hash": "md5", "path": oid} for oid in objects]
        (folder / "kept.dvc").write_text(yaml.safe_dump({"outs": outs}), encoding="utf-8")
        yield
    finally:
        remove(folder)


def _gained(workspace: Workspace, before: dict[Path, int], going: Plan) -> Iterator[str]:
    yield f"{shown(going.bytes)} freed"
    for place, free in free_by_place(workspace).items():
        yield f"{shown(free)} free at {place}, {shown(before[place])} before"
