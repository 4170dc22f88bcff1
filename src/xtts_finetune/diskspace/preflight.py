"""The question before a phase starts: will what it writes fit? Asked while the answer costs nothing."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.core.disk import file_system, freed_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace, reserve_of
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import Budget, Demand, is_done
from xtts_finetune.diskspace.parked import parked_runs
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.dvcio.cache import Cache


def preflight(workspace: Workspace, params: Params, phase: PhaseName) -> None:
    """Refuse a phase that would not fit; warn on stderr where the one after it would not.

    Raises:
        UserError: per file system the arithmetic, and what would help.
    """
    if is_done(workspace, phase) or phase in trained_now(workspace):  # the latter is refused for being trained
        return
    budget = Budget(workspace, params, Cache(workspace))
    short = [demand for demand in budget.peak(phase) if demand.missing]
    if short:
        raise UserError(f"{phase} does not fit on the disk", [_problem(budget, phase, demand) for demand in short])
    for later in PHASES[PHASES.index(phase) + 1 :]:
        for demand in budget.peak(later, before=[phase]):
            if demand.missing:
                print(_warning(phase, later, demand), file=sys.stderr)


def _warning(phase: PhaseName, later: PhaseName, demand: Demand) -> str:
    what = (
        f"warning: {phase} fits on {demand.disk}, {later} after it will not: {shown(demand.missing)} will be missing."
    )
    remedy = f"Make room until then: once {phase} is done, `xtts-finetune disk` shows what can go."
    return "\n    ".join([f"{what} {remedy}", *demand.lines()])


def _problem(budget: Budget, phase: PhaseName, demand: Demand) -> Problem:
    helping = [*_cleaning(budget.workspace, phase, demand), *_settings(budget, phase, demand)]
    ways = [f"{what:<48}{effect} {shown(size)}" for what, effect, size in helping if size > 0]
    ways.append(f"{'xtts-finetune disk':<48}shows what else lies there")
    return Problem(str(demand.disk), "\n      ".join(demand.lines()), "\n              ".join(ways))


def _cleaning(workspace: Workspace, phase: PhaseName, demand: Demand) -> Iterator[tuple[str, str, int]]:
    """What each way to clean frees on the demand's file system, but for the phase's own: that is counted on already."""
    disk, work = file_system(demand.disk), workspace.work(phase)
    own = (work, reserve_of(work))
    for way in ways_to_make_room(workspace):
        files = [file for item in way.items for file in item.files]
        others = (file for file in files if not any(file.is_relative_to(place) for place in own))
        yield way.request.command, "frees", freed_bytes(file for file in others if file_system(file) == disk)
    for parked in parked_runs(workspace):
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
