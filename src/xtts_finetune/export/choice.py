"""Which model is meant: a registered version, the best of a phase, or any step that is still there."""

import re
from collections.abc import Iterator

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, WEIGHTS, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.export.here import checkpoints, of_phase, of_step, place_of
from xtts_finetune.export.registered import of_version, registry_of
from xtts_finetune.export.source import TITLE, Source
from xtts_finetune.tracking.registry import CHAMPION
from xtts_finetune.tracking.versions import shown

_STEP = re.compile(rf"({'|'.join(PHASES)})(?:@(\d{{1,12}}))?")


def find_source(workspace: Workspace, params: Params, wanted: str | None) -> Source:
    """The model that `wanted` names; None: the champion, or the newest phase's where none is registered.

    Args:
        wanted: an alias or number of a registered version, a phase, or phase@step.

    Raises:
        UserError: there is no such model, or it is not whole, or another base's; or MLflow cannot be used.
    """
    if wanted is None:
        return _usual(workspace, params)
    named = _STEP.fullmatch(wanted)
    if not named:
        found = of_version(workspace, params, wanted)
    else:
        phase = next(phase for phase in PHASES if phase == named[1])
        found = of_step(workspace, params, phase, int(named[2])) if named[2] else of_phase(workspace, params, phase)
    if found is None:
        there = "".join(f"\n        {line}" for line in _what_there_is(workspace, params))
        what = f"there is no such model; there is:{there}" if there else "there is no model yet"
        raise UserError(TITLE, [Problem(repr(wanted), what, "choose one of them" if there else "dvc repro")])
    return found


def _usual(workspace: Workspace, params: Params) -> Source:
    found = of_version(workspace, params, CHAMPION)
    for phase in reversed(PHASES):
        found = found or of_phase(workspace, params, phase)
    if found is None:
        where = str(workspace.model(PHASES[0]).parent)
        raise UserError(TITLE, [Problem(where, "no model is trained or registered yet", "dvc repro")])
    return found


def _what_there_is(workspace: Workspace, params: Params) -> Iterator[str]:
    """A line for each: what to type, and what it is."""
    try:
        registry = registry_of(workspace, params)
    except UserError as error:
        yield f"{error.title}: {error.problems[0].what}"
    else:
        for version in registry.versions if registry else ():
            yield f"{version.version:<15} {shown(version)}"
    for phase in PHASES:
        if (workspace.model(phase) / WEIGHTS).is_file():
            yield f"{phase:<15} models/{phase}"
    for phase in PHASES:
        for checkpoint in checkpoints(workspace, params, phase):
            yield f"{f'{phase}@{checkpoint.step}':<15} {place_of(workspace, checkpoint)}"
