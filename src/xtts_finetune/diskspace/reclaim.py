"""What of a workspace can go, and what that frees: a plan. Looks, and changes nothing.

A file frees its bytes only with its last name. A state of a finished phase has two, in checkpoints/ and in DVC's
cache: the first is deleted, the second goes in `dvc gc -w`, once dvc.lock names it no longer.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from xtts_finetune.checkpoints import states
from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.layout import DONE, PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.diskspace.plans import Item, Kept, Option, Plan, counted
from xtts_finetune.dvcio.cache import Cache, Listing, named_outs
from xtts_finetune.dvcio.outs import is_committed
from xtts_finetune.tracking.registered import registered

_RECORDINGS = "metadata.csv"  # what a folder of recordings has, and no other


def plan(
    workspace: Workspace,
    option: Option,
    force: bool = False,
    verify: bool = False,
    live: Collection[PhaseName] | None = None,
) -> Plan:
    """What `option` lets go.

    Args:
        option: `intermediates` keeps the best and the newest state of every phase. `best_only` keeps of finished
            phases the exported best alone; so does `archive`, when their states are safe elsewhere.
        force: resume points of unfinished phases, earlier versions of recordings and objects in a cache that other
            projects may share go as well.
        verify: read every byte of a state before others go for its sake; else its files' sizes are believed.
        live: the phases that a trainer holds, which are left alone; None: look.
    """
    look = _Look(workspace, option, force, verify, trained_now(workspace) if live is None else live)
    found = [
        *(part for phase in PHASES for part in look.phase(phase)),
        *look.leftovers(),
        *look.cache_objects(),
        *(Kept(what, why, held_bytes(files_below(folder))) for what, why, folder in registered(workspace)),
    ]
    items = counted(part for part in found if isinstance(part, Item))
    return Plan(option, force, items, [part for part in found if isinstance(part, Kept)], look.outs, look.recordings())


class _Look:
    """The workspace as an option sees it."""

    def __init__(
        self, workspace: Workspace, option: Option, force: bool, verify: bool, live: Collection[PhaseName]
    ) -> None:
        self.workspace, self.option, self.force, self.verify, self.live = workspace, option, force, verify, live
        self.cache = Cache(workspace)
        self.frozen = self.cache.is_shared and not force
        self.named = named_outs(workspace)
        self.going = {phase: self._going(phase) for phase in PHASES}  # names in checkpoints/<phase>/
        self.outs = dict(self._relisted())
        self.staying = self._staying()

    def phase(self, phase: PhaseName) -> Iterator[Item | Kept]:
        work = self.workspace.work(phase)
        if phase in self.live:
            yield self._keep([work], "a trainer is at work here")
            return
        reserve = reserve_of(work)
        if reserve.exists():
            yield self._item([reserve], "room held for a run that is not running now; the next one holds it again")
        if (work / DONE).exists() and is_committed(self.workspace, phase):
            yield self._item([work], "the phase is done, and DVC has what is kept of it")
        elif (work / DONE).exists():
            yield self._keep([work], "the phase is done; `dvc repro` has yet to take it over")
        elif work.is_dir():
            yield from self._unfinished(work)
        yield from self._finished(phase)

    def leftovers(self) -> Iterator[Item]:
        """Unfinished writes. While a trainer is at work they may be its own."""
        at = self.workspace
        works = [at.work(phase) for phase in PHASES]
        places = [at.root, works[0].parent, *works, at.checkpoints("phase1").parent, at.model("phase1").parent]
        artifacts = at.tracking_db.parent / "artifacts"
        places += [at.reports, at.tracking_db.parent, artifacts, artifacts / "models"]
        found = [path for place in places for path in sorted(place.glob(".*.tmp"))]
        if found and not self.live:
            yield self._item(found, "left half-written by a process that was killed")

    def cache_objects(self) -> Iterator[Item | Kept]:
        """What the cache holds for earlier runs; earlier recordings stay."""
        gone = {oid for out in self.outs for oid in self._dropped(out)}
        unnamed = self.cache.objects() - self.staying - gone
        recordings = self.cache.below(self.recordings()) & unnamed
        for what, oids in ("earlier runs", unnamed - recordings), ("earlier recordings", recordings):
            paths = self.cache.paths(oids)
            label = f"{what} in DVC's cache"
            if not paths:
                continue
            if self.frozen:
                why = f"{self.cache.folder} is not in this folder: other projects may keep theirs there (--force)"
                yield Kept(label, why, held_bytes(paths))
            elif what == "earlier recordings":
                yield Kept(label, "nothing can make them again (--force)", held_bytes(paths))
            else:
                yield Item(label, "neither dvc.lock nor a .dvc file names them", [], paths)

    def recordings(self) -> list[str]:
        """The earlier versions of recordings, which are in the cache and nowhere else."""
        unnamed = self.cache.objects() - self.staying
        return [] if self.force else sorted(oid for oid in unnamed if _RECORDINGS in self.cache.listing(oid))

    def _unfinished(self, work: Path) -> Iterator[Item | Kept]:
        going, resume_point = states.dispensable(work, self.verify)
        if going:
            yield self._item(going, "the newest state is enough to resume from")
        if resume_point and self.force and self.option != "intermediates":
            yield self._item([resume_point], "the resume point, by force: the phase will start over")
        elif resume_point:
            force = "" if self.option == "intermediates" else " (--force)"
            yield self._keep([resume_point], f"the unfinished phase resumes here{force}")

    def _finished(self, phase: PhaseName) -> Iterator[Item | Kept]:
        """Its states; where DVC has cleared the workspace for a new run, those in its cache."""
        folder = self.workspace.checkpoints(phase)
        out = self._name(folder)
        going = [folder / name for name in sorted(self.going[phase]) if (folder / name).exists()]
        objects = self.cache.paths(self._dropped(out))
        if self.option == "intermediates":
            why = "the newest state and the best are kept"
        else:
            why = "models/ keeps the best; more epochs will start this phase afresh"
        if going or objects:
            yield Item(self._shown(going) or f"{out} of the run before", why, going, objects)
        elif self.option != "intermediates" and folder.is_dir() and any(folder.iterdir()) and not self.frozen:
            yield self._keep([folder], f"models/{phase} is missing or damaged, or dvc.lock does not name these states")

    def _relisted(self) -> Iterator[tuple[str, Listing]]:
        """The phases' listings without what goes, and without what went when this was killed before."""
        for phase in () if self.frozen else PHASES:
            folder = self.workspace.checkpoints(phase)
            before, is_here = self._listing(phase), folder.is_dir()
            staying = {path for path in before if path.split("/")[0] not in self.going[phase]}
            after = {path: before[path] for path in staying if not is_here or (folder / path).exists()}
            if after != before and phase not in self.live:
                yield self._name(folder), after

    def _going(self, phase: PhaseName) -> set[str]:
        folder, listing = self.workspace.checkpoints(phase), self._listing(phase)
        if phase in self.live or self.frozen or not listing:
            return set()
        if self.option == "intermediates":
            if folder.is_dir():
                return {path.name for path in states.dispensable(folder, self.verify)[0]}
            return states.dispensable_of(listing)
        if not self._is_exported(phase):
            return set()
        return {path.name for path in folder.iterdir()} if folder.is_dir() else {path.split("/")[0] for path in listing}

    def _listing(self, phase: PhaseName) -> Listing:
        """What dvc.lock names as the phase's states."""
        return self.cache.listing(self.named.get(self._name(self.workspace.checkpoints(phase)), ""))

    def _is_exported(self, phase: PhaseName) -> bool:
        """Whether the phase's best weights are safe: in models/, or in the cache if DVC cleared it for a new run."""
        model = self.workspace.model(phase)
        if model.is_dir():
            return states.is_whole_model(model, self.verify)
        named = self.cache.below([oid for out, oid in self.named.items() if out == self._name(model)])
        return len(named) > 1 and len(self.cache.paths(named)) == len(named)

    def _staying(self) -> set[str]:
        """The objects that something will still name."""
        whole = {oid for out, oid in self.named.items() if out not in self.outs}
        return self.cache.below(whole) | {oid for listing in self.outs.values() for oid in listing.values()}

    def _dropped(self, out: str) -> set[str]:
        """The objects that only this out named, and will no longer."""
        return self.cache.below([self.named[out]]) - self.staying if out in self.outs else set()

    def _item(self, paths: list[Path], why: str) -> Item:
        return Item(self._shown(paths), why, paths)

    def _keep(self, paths: list[Path], why: str) -> Kept:
        return Kept(self._shown(paths), why, held_bytes(files_below(*paths)))

    def _shown(self, paths: list[Path]) -> str:
        names = sorted(path.name for path in paths)
        if len(paths) > 1 and len({path.parent for path in paths}) == 1:
            return f"{self._name(paths[0].parent)}/ {', '.join(names)}"
        return ", ".join(sorted(map(self._name, paths)))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.workspace.root).as_posix()
