"""What makes again what is let go, and how long that takes on this machine."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.checkpoints.parking import record_of
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import MODEL_CARD, PHASES, PhaseName, Workspace, checkpoint_step
from xtts_finetune.core.params import load_params
from xtts_finetune.tracking.pace import in_words, pace_of

LOST = "nothing: nobody names its parameters any more"


def states_again(workspace: Workspace, phase: PhaseName, going: Iterable[str], staying: Iterable[str]) -> str:
    """For the states of a phase; "" where none is among what goes.

    Args:
        going: folders of the phase, by their names.
        staying: those that states can be trained again from.
    """
    gone, kept = _steps(going), _steps(staying)
    if not gone:
        return ""
    first = start_step(workspace, phase)
    furthest = max(step - max([at for at in kept if at <= step], default=first) for step in gone)
    each = "" if len(gone) == 1 else ", or another of them"
    return f"xtts-finetune rebuild --step {max(gone)}{each}{_within(workspace, {phase: furthest}, 'at most ')}"


def is_asked_for(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether the states in checkpoints/ are of the run that params.yaml asks for: no other is trained again here."""
    record = record_of(workspace.checkpoints(phase))
    try:
        identity = identity_of(workspace, load_params(workspace.params), phase)
    except UserError:  # then nothing is trained here
        return False
    return record is not None and identity is not None and identity.has_trajectory_of(record.identity)


def phase_again(workspace: Workspace, phase: PhaseName, folder: Path) -> str:
    """For a run under way, whole: all states of `folder` go."""
    came_to = max(_steps(path.name for path in folder.iterdir()), default=0)
    return f"dvc repro{_within(workspace, {phase: came_to - start_step(workspace, phase)})}"


def run_again(workspace: Workspace, way_back: str, last_steps: Collection[int]) -> str:
    """For a run that git names.

    Args:
        way_back: to its commit.
        last_steps: of its phases, as far as they are known: steps count on.
    """
    ends = sorted(last_steps)
    taken = dict(zip(PHASES, (end - before for end, before in zip(ends, [0, *ends], strict=False)), strict=False))
    return f"{way_back}, then dvc repro{_within(workspace, taken)}"


def start_step(workspace: Workspace, phase: PhaseName) -> int:
    """The step that a phase begins at: phase 2 at phase 1's last; 0 where its card is not there, or damaged."""
    if phase == "phase2":
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(read_json(workspace.model("phase1") / MODEL_CARD)["last_step"])
    return 0


def _steps(names: Iterable[str]) -> list[int]:
    return [step for name in names if (step := checkpoint_step(name, "step")) is not None]


def _within(workspace: Workspace, steps: dict[PhaseName, int], bound: str = "about ") -> str:
    """How long so many steps take, as a part of a sentence; nothing where that is not known."""
    paces = {phase: pace_of(workspace, phase) for phase, count in steps.items() if count > 0}
    if not paces:
        return ""
    if None in paces.values():
        return " (how long that takes is known once the phase was trained here)"
    seconds = sum(steps[phase] * pace for phase, pace in paces.items() if pace)
    return f" ({bound}{in_words(seconds)})"
