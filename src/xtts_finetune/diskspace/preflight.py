"""The question before a stage starts: will what it writes fit? Asked while the answer costs nothing."""

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from xtts_finetune.checkpoints.lock import locked, trained_now
from xtts_finetune.checkpoints.parking import park, record_of
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import file_system, freed_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.ahead import is_done, run_folder
from xtts_finetune.diskspace.budget import Budget, Demand, Term, by_file_system
from xtts_finetune.diskspace.parked import parked_runs
from xtts_finetune.diskspace.stage_peaks import evaluate_peak, prepare_peak
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.dvcio.cache import Cache


def preflight(workspace: Workspace, params: Params, phase: PhaseName) -> None:
    """Refuse a phase that would not fit; warn on stderr where the one after it would not.

    Raises:
        UserError: per file system the arithmetic, and what would help.
    """
    if is_done(workspace, params, phase) or phase in trained_now(workspace):  # the latter is refused for being trained
        return
    _clear_leftovers(workspace, params, phase)
    budget = Budget(workspace, params, Cache(workspace))
    short = [demand for demand in budget.peak(phase) if demand.missing]
    if short:
        _park_another(workspace, params, phase)
        raise UserError(f"{phase} does not fit on the disk", [_problem(budget, phase, demand) for demand in short])
    for later in PHASES[PHASES.index(phase) + 1 :]:
        for demand in budget.peak(later, before=[phase]):
            if demand.missing:
                print(as_typed(_warning(phase, later, demand)), file=sys.stderr)


def preflight_prepare(workspace: Workspace, params: Params) -> None:
    """Refuse `prepare` where it would not fit; as `preflight`, and what `read_metadata` refuses."""
    budget = Budget(workspace, params, Cache(workspace))
    _refuse_short(budget, "prepare", prepare_peak(budget))


def preflight_evaluate(workspace: Workspace, params: Params) -> None:
    """Refuse `evaluate` where it would not fit; as `preflight`."""
    budget = Budget(workspace, params, Cache(workspace))
    _refuse_short(budget, "evaluate", evaluate_peak(budget))


def preflight_export(workspace: Workspace, params: Params, terms: list[Term]) -> None:
    """Refuse `export` where what it writes (`terms`) would not fit; as `preflight`."""
    _refuse_short(Budget(workspace, params, Cache(workspace)), "the export", by_file_system(terms))


def preflight_fetch(workspace: Workspace, params: Params, terms: list[Term], what: str = "the base") -> None:
    """Refuse to fetch `what` where the files that have yet to come (`terms`) would not fit; as `preflight`."""
    _refuse_short(Budget(workspace, params, Cache(workspace)), what, by_file_system(terms))


def _refuse_short(budget: Budget, stage: str, demands: list[Demand]) -> None:
    problems = [_shown(demand, _cleaning(budget, [], demand)) for demand in demands if demand.missing]
    if problems:
        raise UserError(f"{stage} does not fit on the disk", problems)


def _clear_leftovers(workspace: Workspace, params: Params, phase: PhaseName) -> None:
    """What a killed save left, of which nothing can be used: a trainer would delete it, and may not get to start."""
    store = CheckpointStore(workspace.work(phase), params.checkpoints.keep_last)
    if any(store.folder.glob(".*.tmp")):
        with store.locked():
            store.discard_leftovers()


def _park_another(workspace: Workspace, params: Params, phase: PhaseName) -> None:
    """Move a run of other parameters aside, as its stage would: then it can be named, and deleted, by its key."""
    work = workspace.work(phase)
    record = record_of(work)
    if record is not None and run_folder(workspace, params, phase) != work:
        with locked(work):
            park(workspace, phase, record.identity.key)


def _warning(phase: PhaseName, later: PhaseName, demand: Demand) -> str:
    what = (
        f"warning: {phase} fits on {demand.disk}, {later} after it will not: {shown(demand.missing)} will be missing."
    )
    remedy = f"Make room until then: once {phase} is done, `xtts-finetune disk` shows what can go."
    return "\n    ".join([f"{what} {remedy}", *demand.lines()])


def _problem(budget: Budget, phase: PhaseName, demand: Demand) -> Problem:
    run = run_folder(budget.workspace, budget.params, phase)
    own = [reserve_of(budget.workspace.work(phase)), *([] if run is None else [run])]
    return _shown(demand, [*_cleaning(budget, own, demand), *_settings(budget, phase, demand)])


def _shown(demand: Demand, helping: Iterable[tuple[str, str, int]]) -> Problem:
    """The arithmetic of a file system, and what helps there: what to type or change, its effect, and its bytes."""
    ways = [(as_typed(what), f"{effect} {shown(size)}") for what, effect, size in helping if size > 0]
    ways.append((as_typed("xtts-finetune disk"), "shows what else lies there"))
    width = max(len(what) for what, _ in ways)
    lines = [f"{what:<{width}}  {effect}" for what, effect in ways]
    return Problem(str(demand.disk), "\n      ".join(demand.lines()), "\n              ".join(lines))


def _cleaning(budget: Budget, own: Collection[Path], demand: Demand) -> Iterator[tuple[str, str, int]]:
    """What each way to clean frees on the demand's file system, but for the run's `own`: that is counted on already."""
    workspace, disk = budget.workspace, file_system(demand.disk)
    for way in ways_to_make_room(workspace):
        files = [file for item in way.items for file in item.files]
        others = (file for file in files if not any(file.is_relative_to(place) for place in own))
        yield way.request.command, "frees", freed_bytes(file for file in others if file_system(file) == disk)
    for parked in parked_runs(workspace):
        if parked.run.folder not in own:
            yield parked.command, "frees", freed_bytes(file for file in parked.files if file_system(file) == disk)


def _settings(budget: Budget, phase: PhaseName, demand: Demand) -> Iterator[tuple[str, str, int]]:
    params, section = budget.params, f"train_{phase}"
    for key, changes in (
        ("checkpoints.keep_last: 1", {"checkpoints": params.checkpoints.model_copy(update={"keep_last": 1})}),
        (f"{section}.optim: adamw8bit", {section: params.phase(phase).model_copy(update={"optim": "adamw8bit"})}),
    ):
        changed = replace(budget, params=params.model_copy(update=changes)).peak(phase)
        saved = sum(demand.needed - other.needed for other in changed if other.disk == demand.disk)
        yield f"params.yaml: {key}", "saves", saved
