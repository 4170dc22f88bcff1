"""What a phase writes at its peak, per file system, as a sum whose every term can be shown.

    states kept            keep_last × a state     weights, their EMA, optimiser and position, in work/
    state being written            1 × a state     the oldest is deleted when it is whole
    best weights                   1 × weights     those before are deleted when they are in place

All else is second names (hard links): the phase's outs, DVC's cache, MLflow's registered model. Where the file system
gives none, these are copies, and terms of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.checkpoints.parking import continues, parked_run_for, record_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.disk import can_link, file_system, files_below, free_bytes, freed_bytes, mount_point, shown
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, EMA, MANIFEST, PHASES, WEIGHTS, PhaseName, Workspace, reserve_of
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.beside import beside_weights
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.tracking.curve import parse_rows

# Bytes of optimizer.safetensors, by `optim`, for each parameter of XTTS v2; mini, of smaller tensors, takes 2.07 in
# 8 bits: a byte for each of two moments, a scale for every 256, headers (tests/training/test_snapshot.py measures it).
OPTIMIZER_BYTES_PER_PARAMETER = {"adamw": 8.0, "adamw8bit": 2.04}
PUBLISHED_PARAMETERS = 441_018_563  # of XTTS v2's GPT
WEIGHT_BYTES = 4  # of a parameter: weights are kept in fp32 whatever the precision of training
# Reports, figures, samples and their copies in MLflow (10 MB each at most), MLflow's and DVC's databases (a few MB
# each): and no database may meet a full disk.
SMALL_THINGS = 100_000_000  # bytes


Shapes = Mapping[str, Sequence[int]]  # of a network's tensors, by name


@dataclass(frozen=True)
class Sizes:
    """Bytes of one resumable state, and of the weights that are a part of it."""

    state: int
    weights: int


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
        if whole:
            yield Term(at.undelivered, "weights, put together", 1, whole)
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


def run_folder(workspace: Workspace, params: Params, phase: PhaseName) -> Path | None:
    """Where the run that the parameters ask for lies: in work/, or beside it, parked. None if that is another's place.

    Another run will be moved aside: what it holds stays held. Before `prepare`, runs are not told apart.
    """
    work, identity = workspace.work(phase), identity_of(workspace, params, phase)
    if identity is None or continues(work, identity):
        return work
    parked = parked_run_for(workspace, identity)
    if parked is not None:
        return parked.folder
    return work if record_of(work) is None else None


def measure(workspace: Workspace, phase: PhaseName, params: Params, shapes: Shapes | None = None) -> Sizes | None:
    """Of the phase's newest state, if it is of this base and optimiser; else by the base's number of parameters.

    None before `prepare`, unless the base is the published one: nothing is known yet.
    """
    parameters = trained_parameters(workspace, params, phase, shapes)
    if parameters is None:
        return None
    settings = params.phase(phase)
    ema = 0 if settings.ema is None else WEIGHT_BYTES
    state = parameters * (WEIGHT_BYTES + ema + OPTIMIZER_BYTES_PER_PARAMETER[settings.optim])
    for folder in (workspace.work(phase), workspace.checkpoints(phase)):
        for manifest in sorted(folder.glob(f"step-*/{MANIFEST}"), reverse=True):
            sizes = _described(manifest, bool(ema))
            # another optimiser's state is half or twice as large; names and shapes add 5 % to a small model's
            if sizes and 0.9 < sizes.state / state < 1.2:
                return sizes
    return Sizes(int(state), parameters * WEIGHT_BYTES)


def trained_parameters(
    workspace: Workspace, params: Params, phase: PhaseName, shapes: Shapes | None = None
) -> int | None:
    """How many a phase trains; None where that is not known yet: before `prepare`, or where parts are frozen."""
    trained = params.phase(phase).trained
    if trained.is_all:
        return all_parameters(workspace, params.base, shapes)
    file = workspace.prepared / "base" / BASE_INFO
    known = shapes or (read_json(file)["gpt"].get("shapes") if file.exists() else None)
    return trained.count(known) if known else None


def all_parameters(workspace: Workspace, base: str, shapes: Shapes | None = None) -> int | None:
    """Of these shapes, else of the base that `prepare` opened; of the published one also while mini lies there."""
    if shapes:
        return sum(map(prod, shapes.values()))
    file = workspace.prepared / "base" / BASE_INFO
    info = read_json(file) if file.exists() else None
    if base == "xtts_v2" and (info is None or info.get("vocoder") == "griffin_lim"):
        return PUBLISHED_PARAMETERS
    return info["gpt"].get("parameters") if info else None


def _described(manifest: Path, has_ema: bool) -> Sizes | None:
    """What a manifest says; None if it is damaged, has just been deleted by the run, or has an EMA and should not."""
    try:
        files = {name: int(file["bytes"]) for name, file in read_json(manifest)["files"].items()}
        return Sizes(sum(files.values()), files[WEIGHTS]) if (EMA in files) == has_ema else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def by_file_system(terms: list[Term]) -> list[Demand]:
    """A demand for each file system that the terms lie on."""
    groups: dict[int, list[Term]] = {}
    for term in terms:
        groups.setdefault(file_system(term.place), []).append(term)
    # of all its places the least: a quota may be on one folder alone
    return [Demand(tuple(group), min(free_bytes(term.place) for term in group)) for group in groups.values()]


def unfinished(workspace: Workspace, params: Params) -> list[PhaseName]:
    """The phases that are still to be trained, in order: from the first without a model on, unless it is done."""
    ahead = [at for at, phase in enumerate(PHASES) if not workspace.model(phase).is_dir()]
    phases = PHASES[ahead[0] :] if ahead else ()
    return [phase for phase in phases if not is_done(workspace, params, phase)]


def is_done(workspace: Workspace, params: Params, phase: PhaseName) -> bool:
    """Whether nothing of the phase is left to do but giving it its outs, which takes no room."""
    run = run_folder(workspace, params, phase)
    return run is not None and CheckpointReader(run).ended_by(params.phase(phase), parse_rows) is not None
