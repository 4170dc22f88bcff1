"""Which phases are still to be trained, and where the run lies that the parameters ask for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """The phases that are still to be trained, in order: from the first without its model on, unless it is done.

    Raises:
        UserError: what an earlier stage left is damaged, or DVC's files are.
    """
    phases = PHASES[len(list(_trained(workspace, params))) :]
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


def _trained(workspace: Workspace, params: Params) -> Iterator[PhaseName]:
    """The phases, from the first on, whose model here is of the run that the parameters ask for.

    By its card, and by dvc.lock. What prepared/ holds tells more, unless it is of another base.
    """
    cards = {phase: _card(workspace, params, phase) for phase in PHASES}
    is_opened = prepared_base(workspace, params.base) is not None
    if cards[PHASES[0]] is None or (is_opened and outdated(workspace, params)):
        return
    here = prepared_here(workspace) if is_opened else {}
    for phase, card in cards.items():
        beside = None if card is None else dict(card.get(TRAINED_WITH) or {})
        if beside is None or any(here.get(name, own) != own for name, own in beside.items()):
            return
        if phase != PHASES[0] and not _goes_on(workspace):
            return
        yield phase


def _card(workspace: Workspace, params: Params, phase: PhaseName) -> dict[str, Any] | None:
    """What a phase's model says of itself; None where it is not there, damaged, or of another base or parameters."""
    wanted = {"base": params.base, "params": {"seed": params.seed, **params.phase(phase).model_dump()}}
    try:
        card: dict[str, Any] = dict(read_json(workspace.model(phase) / MODEL_CARD))
    except (OSError, ValueError, TypeError):  # DVC will find it changed
        return None
    return card if card.items() >= wanted.items() else None


def _goes_on(workspace: Workspace) -> bool:
    """Whether phase 2 started from the phase 1 that dvc.lock names now."""
    model = out_path(workspace, workspace.model(PHASES[0]))
    used = named_dependencies(workspace, f"train_{PHASES[1]}").get(model)
    return used == named_entries(workspace).get(model, {}).get("md5")
