"""What of a workspace can go, and what that frees: a plan. Looks, and changes nothing.

A file frees its bytes only with its last name. A state of a finished phase has two, in checkpoints/ and in DVC's
cache: the first is deleted, the second goes in `dvc gc -w`, once dvc.lock names it no longer.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xtts_finetune.checkpoints.exported import is_whole_model
from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.checkpoints.retention import best_weights, newest, retain, stored
from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.files import leftovers_in
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.diskspace.again import is_asked_for, phase_again, states_again
from xtts_finetune.diskspace.earlier import EarlierRuns, Stock
from xtts_finetune.diskspace.parked import ParkedRun, parked_runs
from xtts_finetune.diskspace.plan import Item, Kept, Plan, Request, counted
from xtts_finetune.diskspace.thinning import names, thinned
from xtts_finetune.dvcio.cache import Listing
from xtts_finetune.dvcio.outs import is_taken_over, lost_states, out_path
from xtts_finetune.tracking.outbox import ended_outboxes
from xtts_finetune.tracking.registered import registered


def make_plan(
    workspace: Workspace, request: Request, verify: bool = False, live: Collection[PhaseName] | None = None
) -> Plan:
    """What the request lets go.

    Args:
        request: `intermediates` keeps the best and the newest state of every phase. `best_only` keeps of finished
            phases the exported best alone; so does `archive`, when their states are safe elsewhere. With `history`,
            of the runs that the tips of branches, tags, experiments and stashes name only the best stays, and of
            those that only earlier commits name nothing. By `force` resume points of unfinished phases, earlier
            versions of recordings and objects in a cache that other projects may share go as well.
        verify: read every byte of a state before others go for its sake; else its files' sizes are believed.
        live: the phases that a trainer holds, which are left alone; None: look.

    Raises:
        UserError: DVC's configuration cannot be read, or git cannot say what it names.
    """
    live = trained_now(workspace) if live is None else live
    return _Survey(workspace, request, verify, _Found.in_(workspace, live)).plan()


def ways_to_make_room(workspace: Workspace) -> list[Plan]:
    """A plan of each, those that take less first; runs that somebody names only where they free more."""
    found = _Found.in_(workspace, trained_now(workspace))
    sparing, best_only, history = (
        _Survey(workspace, request, verify=False, found=found).plan()
        for request in (Request("intermediates"), Request("best_only"), Request("best_only", history=True))
    )
    return [sparing, best_only, *([history] if history.bytes > best_only.bytes else [])]


@dataclass(frozen=True)
class _Found:
    """What there is, whatever the request.

    Attributes:
        live: the phases that a trainer holds.
        registered: what MLflow's own store here holds: in words, why it stays, and where.
    """

    live: Collection[PhaseName]
    stock: Stock
    parked: Sequence[ParkedRun]
    registered: list[tuple[str, str, Path]]

    @classmethod
    def in_(cls, workspace: Workspace, live: Collection[PhaseName]) -> Self:
        return cls(live, Stock.of(workspace), parked_runs(workspace), list(registered(workspace)))


class _Survey:
    """The workspace as a request sees it."""

    def __init__(self, workspace: Workspace, request: Request, verify: bool, found: _Found) -> None:
        self.workspace, self.request, self.verify = workspace, request, verify
        self.live, self.cache, self.registered = found.live, found.stock.cache, found.registered
        self.frozen = self.cache.is_shared and not request.force
        self.earlier = EarlierRuns(workspace, request, found.stock)
        self.named = self.earlier.named
        self.lost = set[PhaseName]() if self._thins or self.frozen else set(lost_states(workspace))
        self.going = {phase: self._going(phase) for phase in PHASES}  # names in checkpoints/<phase>/
        self.outs = dict(self._relisted())
        self.parked = found.parked
        self.others = {each.run.folder for each in self.parked}  # which only their key deletes
        self.own = self._own()

    def plan(self) -> Plan:
        """All of it."""
        parts = [
            *(part for phase in PHASES for part in self.phase(phase)),
            *self.leftovers(),
            *self.cache_objects(),
            *(Kept(str(parked), f"let it go: {parked.command}", parked.run.bytes) for parked in self.parked),
            *(Kept(what, why, held_bytes(files_below(folder))) for what, why, folder in self.registered),
            *(
                Kept(
                    out_path(self.workspace, folder),
                    "waits for MLflow: xtts-finetune sync",
                    held_bytes(files_below(folder)),
                )
                for folder in ended_outboxes(self.workspace)
            ),
        ]
        items = counted(part for part in parts if isinstance(part, Item))
        kept = [part for part in parts if isinstance(part, Kept)]
        return Plan(self.request, items, kept, self.outs, self.lost, self.earlier.safe(self.own))

    def phase(self, phase: PhaseName) -> Iterator[Item | Kept]:
        work = self.workspace.work(phase)
        if phase in self.live:
            yield self._keep([work], "a trainer is at work here")
            return
        reserve = reserve_of(work)
        if reserve.exists():
            yield self._item([reserve], "room held for a run that is not running now; the next one holds it again")
        if work in self.others:
            pass  # listed with the parked runs, of which DVC has none
        elif is_taken_over(self.workspace, phase):  # it may read every byte
            yield self._item([work], "the phase is done, and DVC has what is kept of it")
        elif summary_of(work):
            yield self._keep([work], "the phase is done; `dvc repro` has yet to take it over")
        elif work.is_dir():
            yield from self._unfinished(phase, work)
        yield from self._finished(phase)
        yield from self._made_again(phase)

    def leftovers(self) -> Iterator[Item]:
        """Unfinished writes of processes that are dead."""
        at = self.workspace
        works = [at.work(phase) for phase in PHASES]
        places = [at.root, works[0].parent, *works, at.checkpoints("phase1").parent, at.model("phase1").parent]
        artifacts = at.tracking_db.parent / "artifacts"
        places += [
            at.rebuilding,
            at.reports,
            at.undelivered,
            at.tracking_db.parent,
            artifacts,
            artifacts / "models",
        ]
        halves = [path for place in places for path in leftovers_in(place)]
        if halves:
            yield self._item(halves, "left half-written by a process that was killed")

    def cache_objects(self) -> Iterator[Item | Kept]:
        """What the cache holds for other runs than the workspace's."""
        gone = {oid for out in self.outs for oid in self._dropped(out)}
        yield from self.earlier.parts(self.own | gone)

    @property
    def _thins(self) -> bool:
        """Whether finished phases keep a state."""
        return self.request.option == "intermediates"

    def _unfinished(self, phase: PhaseName, work: Path) -> Iterator[Item | Kept]:
        verdict = thinned(work, self.verify)
        if (verdict.keep or verdict.delete) and self.request.force and not self._thins:
            why = "by force its resume point and its best go: the phase will start over"
            yield self._item([work], why, phase_again(self.workspace, phase, work))
            return
        resume_point = next((work / each.name for each in reversed(verdict.keep) if not each.is_best), None)
        if verdict.delete:
            going = [work / each.name for each in verdict.delete]
            again = states_again(self.workspace, phase, names(verdict.delete), names(verdict.keep))
            yield self._item(going, "the newest state is enough to resume from", again)
        force = "" if self._thins else " (--force)"
        if resume_point:
            yield self._keep([resume_point], f"the unfinished phase resumes here{force}")
        elif verdict.keep:
            bests = [work / each.name for each in verdict.keep]
            yield self._keep(bests, f"the best weights of a run that no state is left of{force}")

    def _finished(self, phase: PhaseName) -> Iterator[Item | Kept]:
        """Its states; where DVC has cleared the workspace for a new run, those in its cache."""
        folder = self.workspace.checkpoints(phase)
        out = self._name(folder)
        going = [folder / name for name in sorted(self.going[phase]) if (folder / name).exists()]
        objects = self.cache.paths(self._dropped(out))
        if self._thins:
            why = "the newest state and the best are kept"
        else:
            why = "models/ keeps the best; more epochs will start this phase afresh"
        if going or objects:
            staying = {path.split("/")[0] for path in self._listing(phase)} - self.going[phase]
            own = is_asked_for(self.workspace, phase)
            again = states_again(self.workspace, phase, self.going[phase], staying) if own else ""
            yield Item(self._shown(going) or f"{out} of the run before", why, going, objects, again=again)
        elif folder.is_dir() and self._claimant(phase):
            yield self._keep([folder], f"named by {self._claimant(phase)} (--history)")
        elif not self._thins and folder.is_dir() and any(folder.iterdir()) and not self.frozen:
            yield self._keep([folder], f"models/{phase} is missing or damaged, or dvc.lock does not name these states")

    def _made_again(self, phase: PhaseName) -> Iterator[Item | Kept]:
        """The states that `rebuild` has left."""
        place = self.workspace.rebuilding
        folders = sorted(place.glob(f"{phase}.*"))
        is_at_work = bool({*place.glob(".*.tmp")} - {*leftovers_in(place)})
        if folders and is_at_work:
            yield self._keep(folders, "states are trained again right now, perhaps from these")
        elif folders:
            yield self._item(folders, "made again once already, by xtts-finetune rebuild")

    def _relisted(self) -> Iterator[tuple[str, Listing]]:
        """The phases' listings without what goes, and without what went when this was killed before."""
        for phase in () if self.frozen else PHASES:
            folder = self.workspace.checkpoints(phase)
            before, is_here = self._listing(phase), folder.is_dir()
            staying = {path for path in before if path.split("/")[0] not in self.going[phase]}
            after = {path: before[path] for path in staying if not is_here or (folder / path).exists()}
            if (after != before or phase in self.lost) and phase not in self.live:
                yield self._name(folder), after

    def _going(self, phase: PhaseName) -> set[str]:
        folder, listing = self.workspace.checkpoints(phase), self._listing(phase)
        if phase in self.live or self.frozen or not listing or self._claimant(phase):
            return set()
        if self._thins:
            verdict = (
                thinned(folder, self.verify) if folder.is_dir() else retain(stored(listing), newest(1), best_weights)
            )
            return {each.name for each in verdict.delete}
        if not self._is_exported(phase):
            return set()
        return {path.name for path in folder.iterdir()} if folder.is_dir() else {path.split("/")[0] for path in listing}

    def _claimant(self, phase: PhaseName) -> str | None:
        """Who else needs the same states."""
        return self.earlier.claims.get(self.named.get(self._name(self.workspace.checkpoints(phase)), ""))

    def _listing(self, phase: PhaseName) -> Listing:
        """What dvc.lock names as the phase's states."""
        return self.cache.listing(self.named.get(self._name(self.workspace.checkpoints(phase)), ""))

    def _is_exported(self, phase: PhaseName) -> bool:
        """Whether the phase's best weights are safe: in models/, or in the cache if DVC cleared it for a new run."""
        model = self.workspace.model(phase)
        if model.is_dir():
            return is_whole_model(model, self.verify)
        named = self.cache.below([oid for out, oid in self.named.items() if out == self._name(model)])
        return len(named) > 1 and len(self.cache.paths(named)) == len(named)

    def _own(self) -> set[str]:
        """The objects that the workspace will still name."""
        whole = {oid for out, oid in self.named.items() if out not in self.outs}
        return self.cache.below(whole) | {oid for listing in self.outs.values() for oid in listing.values()}

    def _dropped(self, out: str) -> set[str]:
        """The objects that this out alone named, and will no longer."""
        dropped = self.cache.below([self.named[out]]) if out in self.outs else set[str]()
        return dropped - self.own - self.earlier.claims.keys()

    def _item(self, paths: list[Path], why: str, again: str = "") -> Item:
        return Item(self._shown(paths), why, paths, again=again)

    def _keep(self, paths: list[Path], why: str) -> Kept:
        return Kept(self._shown(paths), why, held_bytes(files_below(*paths)))

    def _shown(self, paths: list[Path]) -> str:
        names = sorted(path.name for path in paths)
        if len(paths) > 1 and len({path.parent for path in paths}) == 1:
            return f"{self._name(paths[0].parent)}/ {', '.join(names)}"
        return ", ".join(sorted(map(self._name, paths)))

    def _name(self, path: Path) -> str:
        return out_path(self.workspace, path)
