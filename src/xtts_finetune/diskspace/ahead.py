"""Which phases are still to be trained, and where the run lies that the parameters ask for."""

from pathlib import Path

from xtts_finetune.checkpoints.identity import TRAINED_WITH, identity_of, prepared_here
from xtts_finetune.checkpoints.parking import continues, parked_run_for, record_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import MODEL_CARD, PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.prepared_base import prepared_base
from xtts_finetune.dvcio.cache import named_dependencies, named_entries
from xtts_finetune.dvcio.outs import out_path
from xtts_finetune.dvcio.prepared import outdated
from xtts_finetune.tracking.curve import parse_rows


def unfinished(workspace: Workspace, params: Params) -> list[PhaseName]:
    """The phases that are still to be trained, in order: from the first without its model on, unless it is done."""
    ahead = [at for at, phase in enumerate(PHASES) if not _is_trained(workspace, params, phase)]
    phases = PHASES[ahead[0] :] if ahead else ()
    return [phase for phase in phases if not is_done(workspace, params, phase)]


def is_done(workspace: Workspace, params: Params, phase: PhaseName) -> bool:
    """Whether nothing of the phase is left to do but giving it its outs, which takes no room."""
    run = run_folder(workspace, params, phase)
    return run is not None and CheckpointReader(run).ended_by(params.phase(phase), parse_rows) is not None


def run_folder(workspace: Workspace, params: Params, phase: PhaseName) -> Path | None:
    """Where the run that the parameters ask for lies: in work/, or beside it, parked. None if that is another's place.

    Another run will be moved aside: what it holds stays held. Before `prepare`, runs are not told apart; where it
    opened another base, none is the one asked for.
    """
    work, identity = workspace.work(phase), identity_of(workspace, params, phase)
    is_of_this_base = prepared_base(workspace, params.base) is not None
    if identity is None or (is_of_this_base and continues(work, identity)):
        return work
    parked = parked_run_for(workspace, identity) if is_of_this_base else None
    if parked is not None:
        return parked.folder
    return work if record_of(work) is None else None


def _is_trained(workspace: Workspace, params: Params, phase: PhaseName) -> bool:
    """Whether the model that lies here is of the run that the parameters ask for, by its card and by dvc.lock."""
    try:
        card = read_json(workspace.model(phase) / MODEL_CARD)
        is_asked_for = card["base"] == params.base and card["params"] == {
            "seed": params.seed,
            **params.phase(phase).model_dump(),
        }
        beside = dict(card.get(TRAINED_WITH, {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # DVC will find it changed
        return False
    return is_asked_for and _starts_as(workspace, params, beside) and (phase == PHASES[0] or _goes_on(workspace))


def _starts_as(workspace: Workspace, params: Params, beside: dict[str, str]) -> bool:
    """Whether a run would start from the same clips and base, as far as prepared/ is of this base and tells it."""
    if prepared_base(workspace, params.base) is None:
        return True
    here = prepared_here(workspace)
    return outdated(workspace, params) is None and all(here.get(name, own) == own for name, own in beside.items())


def _goes_on(workspace: Workspace) -> bool:
    """Whether phase 2 started from the phase 1 that dvc.lock names now."""
    model = out_path(workspace, workspace.model(PHASES[0]))
    used = named_dependencies(workspace, f"train_{PHASES[1]}").get(model)
    return used == named_entries(workspace).get(model, {}).get("md5")
