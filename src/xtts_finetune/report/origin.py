"""Whose figures lie here: reports come with git, models with DVC, and parameters from the editor."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xtts_finetune.checkpoints.parking import record_of
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import MODEL_CARD, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.dvcio.cache import named_dependencies, named_entries, named_outs, named_params

OURS = "of this workspace's run"
_ALIKE = 1e-3  # Mel CE of the same weights, evaluated twice


def whose_figures(workspace: Workspace, params: Params | None, shown: Sequence[PhaseName]) -> str | None:
    """Whose the metrics of these phases in reports/ are: `OURS`, or why they are not; None where there are none."""
    if not shown:
        return None
    cards = {phase: model_card(workspace, phase) for phase in shown}
    if not any(cards.values()):
        return "as committed with git: nothing was trained in this checkout"
    others = [phase for phase, card in cards.items() if not tells(card, read_json(workspace.metrics(phase)))]
    if others:
        models = " and ".join(f"models/{phase}" for phase in others)
        if not any(cards[phase] for phase in others):
            return f"of {models}, which is gone: bring back what dvc.lock names with dvc checkout, or dvc repro"
        return f"of another run than {models}: bring back what dvc.lock names with dvc checkout, or dvc repro"
    changes = [
        *_other_data(workspace),
        *(_other_params(workspace, params, ["prepare", *(f"train_{phase}" for phase in shown)]) if params else ()),
    ]
    return f"of an earlier run, before {'; '.join(dict.fromkeys(changes))}" if changes else OURS


def model_card(workspace: Workspace, phase: PhaseName) -> dict[str, Any] | None:
    """What a phase's exported best says of itself; None if there is none."""
    card = workspace.model(phase) / MODEL_CARD
    content: dict[str, Any] | None = read_json(card) if card.is_file() else None
    return content


def tells(card: dict[str, Any] | None, figures: dict[str, Any]) -> bool:
    """Whether a model says these figures of itself."""
    return card is not None and all(card.get(key) == figures[key] for key in ("step", "eval"))


def goes_on_from(later: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a phase was warm-started from another, by its figures: it began with what that had come to.

    DVC knows, too, but where it was ended before it wrote that down. Its states know it for certain: `began_with`.
    """
    began, ended = (
        figures.get(key, {}).get("mel_ce", math.nan) for figures, key in ((later, "start"), (before, "eval"))
    )
    return bool(abs(began - ended) < _ALIKE)


def began_with(workspace: Workspace, phase: PhaseName, figures: Mapping[str, Any]) -> str | None:
    """SHA-256 of the weights that a phase with these figures began with, as its states say; None: they are gone."""
    folder = workspace.checkpoints(phase)
    summary, record = summary_of(folder), record_of(folder)
    if record is None or not summary or not tells(summary["figures"], dict(figures)):
        return None
    began: str | None = record.identity.trajectory.get("initial_weights")
    return began


def _other_data(workspace: Workspace) -> Iterator[str]:
    used, outs = named_dependencies(workspace, "train_phase1"), named_entries(workspace)
    if used.get("prepared") != outs.get("prepared", {}).get("md5"):
        yield "other clips were prepared"
    added = named_outs(workspace).get("data")
    if added and added != named_dependencies(workspace, "prepare").get("data", added):
        yield "data.dvc named other recordings"


def is_evaluated(workspace: Workspace, params: Params | None) -> bool:
    """Whether the evaluation is of the models that the phases have left last, and as params.yaml asks for."""
    if params is not None and any(_other_params(workspace, params, ["evaluate"])):
        return False
    return workspace.evaluation.exists() and not any(_other_models(workspace, ["evaluate"]))


def is_of_an_earlier_run(workspace: Workspace, phase: PhaseName) -> bool:
    """Whether a phase's figures are of models that were trained again since."""
    return any(_other_models(workspace, [f"train_{phase}"]))


def _other_models(workspace: Workspace, stages: list[str]) -> Iterator[str]:
    """Which of the models that the stages ran on are others than those that the phases have left since."""
    outs = named_outs(workspace)
    for stage in stages:
        for path, used in named_dependencies(workspace, stage).items():
            if path in outs and path.startswith("models/") and outs[path] != used:
                yield f"{path} was trained again"


def _other_params(workspace: Workspace, params: Params, stages: Iterable[str]) -> Iterator[str]:
    """What stands in params.yaml that these stages did not run with."""
    now = flat(params.model_dump())
    before: dict[str, Any] = {}
    for stage in stages:
        before |= flat(named_params(workspace, stage))
    yield from (f"{key} {old} → {now[key]}" for key, old in before.items() if key in now and now[key] != old)


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their path, e.g. train_phase1.lr."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat
