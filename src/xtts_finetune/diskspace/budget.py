"""What a phase writes at its peak, per file system, as a sum whose every term can be shown.

    states kept            keep_last × a state     weights, their EMA, optimiser and position, in work/
    state being written            1 × a state     the oldest is deleted when it is whole
    best weights                   1 × weights     those before are deleted when they are in place

All else is second names (hard links): the phase's outs, DVC's cache, MLflow's registered model. Where the file system
gives none, these are copies, and terms of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.disk import can_link, file_system, files_below, free_bytes, freed_bytes, mount_point, shown
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.ahead import run_folder
from xtts_finetune.diskspace.beside import beside_weights
from xtts_finetune.diskspace.sizes import WEIGHT_BYTES, Shapes, Sizes, all_parameters, measure
from xtts_finetune.dvcio.cache import Cache

# Reports, figures, samples and their copies in MLflow (10 MB each at most), MLflow's and DVC's databases (a few MB
# each): and no database may meet a full disk.
SMALL_THINGS = 100_000_000  # bytes


@dataclass(frozen=True)
class Term:
    """`count` times `each` bytes at `place`; -1 times what is there already."""

    place: Path
    label: str
    count: int
    each: int

    @property
    def bytes(self) -> int:
        return self.count * self.each


@dataclass(frozen=True)
class Demand:
    """What is yet to be written on one file system, and the bytes that are free there."""

    terms: tuple[Term, ...]
    free: int

    @property
    def disk(self) -> Path:
        """The file system, by the folder where it is mounted."""
        return mount_point(self.terms[0].place)

    @property
    def needed(self) -> int:
        return max(0, sum(term.bytes for term in self.terms))

    @property
    def missing(self) -> int:
        return max(0, self.needed - self.free)

    def lines(self) -> list[str]:
        """The sum for a reader, a line per term, and what is free beside it."""
        products = [f"{term.count} × {shown(term.each)}" if term.count > 0 else "" for term in self.terms]
        rows = [(term.label, product, shown(term.bytes)) for term, product in zip(self.terms, products, strict=True)]
        rows += [("needed at the peak", "", shown(self.needed)), ("free", "", shown(self.free))]
        if self.missing:
            rows.append(("missing", "", shown(self.missing)))
        return [f"{label:<32}{product:>15}{total:>11}" for label, product, total in rows]


@dataclass(frozen=True)
class Budget:
    """What the phases of a workspace need."""

    workspace: Workspace
    params: Params
    cache: Cache
    shapes: Shapes | None = None  # of the base, where they are known otherwise than from `prepare`

    def peak(self, phase: PhaseName, before: Sequence[PhaseName] = ()) -> list[Demand]:
        """What a phase has yet to write until its peak, on each file system.

        Args:
            before: phases to be trained before it, which then leave their outs.

        Returns:
            Nothing before `prepare`: the sizes are not known yet.
        """
        terms: list[Term] = []
        for each in (*before, phase):
            sizes = measure(self.workspace, each, self.params, self.shapes)
            if sizes is None:
                return []
            terms += (self._at_its_peak if each == phase else self._left_behind)(each, sizes)
        return by_file_system([*terms, *self._held(phase)])

    def _at_its_peak(self, phase: PhaseName, sizes: Sizes) -> Iterator[Term]:
        at = self.workspace
        work, model, artifacts = at.work(phase), at.model(phase), at.tracking_db.parent
        yield Term(work, "states kept (keep_last)", self.params.checkpoints.keep_last, sizes.state)
        yield Term(work, "state being written", 1, sizes.state)
        yield Term(work, "best weights", 1, sizes.weights)
        yield from self._copies(phase, sizes)
        registered = self.cache.root if self._cache_takes_over(model) else model.parent
        is_last, is_local = phase == PHASES[-1], self.params.tracking.uri is None
        whole = self.whole_weights if is_last else 0
        if is_last:
            yield from self.whole_terms()
        if is_last and is_local and not can_link(at.undelivered if whole else registered, artifacts):
            bundle = max(whole, sizes.weights) + beside_weights(at, self.params.base)
            yield Term(artifacts, f"model copied to {artifacts.name}/", 1, bundle)
        yield Term(at.root, "reports, samples, databases", 1, SMALL_THINGS)

    @property
    def whole_weights(self) -> int:
        """Bytes of what `evaluate` may put together for the registry; 0: it takes any phase's weights as they are."""
        parameters = all_parameters(self.workspace, self.params.base, self.shapes)
        are_whole = all(self.params.phase(phase).trained.is_all for phase in PHASES)
        return 0 if are_whole or self.params.registry.weights == "trained" else WEIGHT_BYTES * (parameters or 0)

    def whole_terms(self) -> Iterator[Term]:
        """Of what `evaluate` puts together: where it waits for MLflow it has a second name, or is a copy.

        What it was copied from is gone when MLflow takes its own copy: on one disk these have the same room.
        """
        whole, at = self.whole_weights, self.workspace
        if not whole:
            return
        yield Term(at.undelivered, "weights, put together", 1, whole)
        makes_room = self.params.tracking.uri is None and file_system(at.tracking_db) == file_system(at.undelivered)
        if not (can_link(at.whole_weights, at.undelivered) or makes_room):
            yield Term(at.undelivered, "copied to where they wait", 1, whole)

    def _copies(self, phase: PhaseName, sizes: Sizes) -> Iterator[Term]:
        """Of a phase's outs, where they can't be second names of what is in work/, and DVC's of them."""
        at, states = self.workspace, self.params.checkpoints.keep_last
        work, checkpoints, model = at.work(phase), at.checkpoints(phase), at.model(phase)
        if not can_link(work.parent, checkpoints.parent):
            yield Term(checkpoints, "states copied to checkpoints/", states, sizes.state)
            yield Term(checkpoints, "best copied to checkpoints/", 1, sizes.weights)
        if not can_link(work.parent, model.parent):
            yield Term(model, "best copied to models/", 1, sizes.weights)
        if not self.cache_links(checkpoints):
            yield Term(self.cache.root, "states copied to DVC's cache", states, sizes.state)
            yield Term(self.cache.root, "best copied to DVC's cache", 1, sizes.weights)

    def _left_behind(self, phase: PhaseName, sizes: Sizes) -> Iterator[Term]:
        """By a phase that is done, when the next has removed its work/."""
        checkpoints, states = self.workspace.checkpoints(phase), self.params.checkpoints.keep_last
        if not self._cache_takes_over(checkpoints):
            yield Term(checkpoints, f"states of {phase}", states, sizes.state)
            yield Term(checkpoints, f"best of {phase}", 1, sizes.weights)
        if not self.cache_links(checkpoints):
            yield Term(self.cache.root, f"states of {phase} in DVC's cache", states, sizes.state)
            yield Term(self.cache.root, f"best of {phase} in DVC's cache", 1, sizes.weights)

    def cache_links(self, out: Path) -> bool:
        """Whether DVC's cache gives an out's files second names; it does so only where hard links come first."""
        return self.cache.link_types[0] == "hardlink" and can_link(out.parent, self.cache.root)

    def _cache_takes_over(self, out: Path) -> bool:
        """Whether an out's bytes end up in DVC's cache alone, with symlinks to them in the workspace."""
        return "symlink" in self.cache.link_types and not self.cache_links(out)

    def _held(self, phase: PhaseName) -> Iterator[Term]:
        """What is there of the run alone: its own part of its peak, and what its stage removes of a done phase."""
        for each in PHASES[: PHASES.index(phase) + 1]:
            run, reserve = run_folder(self.workspace, self.params, each), reserve_of(self.workspace.work(each))
            held = freed_bytes(files_below(*([] if run is None else [run]), reserve))
            if held:
                place = run or reserve
                yield Term(place, f"already in work/{place.name}", -1, held)


def by_file_system(terms: list[Term]) -> list[Demand]:
    """A demand for each file system that the terms lie on."""
    groups: dict[int, list[Term]] = {}
    for term in terms:
        groups.setdefault(file_system(term.place), []).append(term)
    # of all its places the least: a quota may be on one folder alone
    return [Demand(tuple(group), min(free_bytes(term.place) for term in group)) for group in groups.values()]
