"""Which phases are still to be trained, and where the run lies that the parameters ask for."""

from pathlib import Path

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.checkpoints.parking import continues, parked_run_for, record_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.tracking.curve import parse_rows


def unfinished(workspace: Workspace, params: Params) -> list[PhaseName]:
    """The phases that are still to be trained, in order: from the first without a model on, unless it is done."""
    ahead = [at for at, phase in enumerate(PHASES) if not workspace.model(phase).is_dir()]
    phases = PHASES[ahead[0] :] if ahead else ()
    return [phase for phase in phases if not is_done(workspace, params, phase)]


def is_done(workspace: Workspace, params: Params, phase: PhaseName) -> bool:
    """Whether nothing of the phase is left to do but giving it its outs, which takes no room."""
    run = run_folder(workspace, params, phase)
    return run is not None and CheckpointReader(run).ended_by(params.phase(phase), parse_rows) is not None


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
