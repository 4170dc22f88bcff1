"""A model of this workspace to be exported: the best of a phase, or any step that is still there."""

from collections.abc import Iterator
from pathlib import Path

from xtts_finetune.cards import gathering
from xtts_finetune.cards.lineage import Lineage
from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import TRAINED_WITH, Record, identity_of, prepared_here, trained_with
from xtts_finetune.checkpoints.parking import record_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import (
    BASE_FILES,
    BASE_INFO,
    BUNDLE_BASE,
    MODEL_CARD,
    REFERENCE,
    VOCODER,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.sizes import WEIGHT_BYTES
from xtts_finetune.export.source import DAMAGED, FIGURES, TITLE, Files, Origin, Source, in_place

_NAMES = {  # of what a model is trained with, as `prepared_here` has it
    "data": "recordings",
    "base_files": "base files (config.json, mel statistics)",
    "base_weights": "base weights",
}


def of_phase(workspace: Workspace, params: Params, phase: PhaseName) -> Source | None:
    """The best of a phase; None: the phase has not been trained to its end.

    Raises:
        UserError: its card is damaged, or what `prepare` made is not there, or not what it was trained with.
    """
    model = workspace.model(phase)
    if not (model / WEIGHTS).is_file():
        return None
    try:
        card = read_json(model / MODEL_CARD)
        figures = {name: float(card["eval"][name]) for name in FIGURES}
        step, base, digest = int(card["step"]), str(card["base"]), str(card["sha256"])
        kind = str(card.get("best_weights", "raw"))  # older cards do not say
        beside = dict(card.get(TRAINED_WITH, {}))
    except DAMAGED as error:
        remedy = "bring it back: dvc checkout --force"
        raise UserError(TITLE, [Problem(str(model / MODEL_CARD), f"cannot be read: {error!r}", remedy)]) from None
    if base != params.base:
        what = f"was trained on the base {base}, and params.yaml names {params.base}"
        raise UserError(TITLE, [Problem(str(model), what, "name its base there, or train again: dvc repro")])
    origin = Origin(f"models/{phase}", phase, step, kind, base, params.prepare.language, digest, figures, False)
    lineage = gathering.of_phase(workspace, origin.model, base, origin.language)
    return _source(workspace, params, origin, model / WEIGHTS, beside, lineage)


def of_step(workspace: Workspace, params: Params, phase: PhaseName, step: int) -> Source | None:
    """A state, or best weights, that training or DVC still keeps; None: there is none of that step.

    Raises:
        UserError: it is damaged, or what `prepare` made is not there, or not what it was trained with.
    """
    checkpoint = next((each for each in checkpoints(workspace, params, phase) if each.step == step), None)
    if checkpoint is None:
        return None
    title = place_of(workspace, checkpoint)
    try:
        weights, state = checkpoint.best_file, checkpoint.state
        digest = str(checkpoint.manifest[weights.name]["sha256"])
        record = Record.from_json(state)
        beside = trained_with(workspace, record.identity)
        bests = {name: float(state["position"][f"best_{name}"]) for name in FIGURES}
        is_best = state["position"]["best_step"] == step
        figures, kind = (bests, state["position"].get("best_weights", "raw")) if is_best else ({}, "raw")
    except DAMAGED as error:
        raise UserError(TITLE, [Problem(title, f"is damaged: {error!r}", "choose another step")]) from None
    origin = Origin(title, phase, step, kind, params.base, params.prepare.language, digest, figures, False)
    lineage = gathering.of_step(workspace, origin.model, params.base, origin.language, record)
    return _source(workspace, params, origin, weights, beside, lineage)


def checkpoints(workspace: Workspace, params: Params, phase: PhaseName) -> list[Checkpoint]:
    """The best weights and the states of a phase, under way or done; of each step one."""
    found: dict[int, Checkpoint] = {}
    places = [workspace.work(phase), workspace.checkpoints(phase)]
    records = [record for place in places if (record := record_of(place))]
    asked_for = identity_of(workspace, params, phase)
    keys = [record.identity.key for record in records] or ([asked_for.key] if asked_for else [])
    places += [workspace.rebuilt(phase, key) for key in keys]  # of another run they are no step of this one
    for reader in map(CheckpointReader, places):
        for each in (*reader.bests(), *reader.states()):
            found.setdefault(each.step, each)
    return [*found.values()]


def place_of(workspace: Workspace, checkpoint: Checkpoint) -> str:
    return checkpoint.folder.relative_to(workspace.root).as_posix()


def _source(
    workspace: Workspace, params: Params, origin: Origin, weights: Path, beside: dict[str, str], lineage: Lineage
) -> Source:
    """It, with the voice and the base in prepared/.

    Args:
        beside: what it was trained with, as of `trained_with`.
        lineage: if that is what is in prepared/.
    """
    base, reference = workspace.prepared / BUNDLE_BASE, workspace.prepared / REFERENCE
    missing = [file for file in (weights, reference, *(base / name for name in BASE_FILES)) if not file.is_file()]
    if missing:
        remedy = "dvc checkout, or: dvc repro"
        raise UserError(TITLE, [Problem(str(file), "is not there", remedy) for file in missing])
    papers = origin.completed(lineage), gathering.data_card_of(workspace)
    files = Files(weights, base, workspace.root, reference, params.evaluate, *papers)
    seen = files.seen()  # before they are found to be its own
    try:
        info, here = read_json(base / BASE_INFO), prepared_here(workspace)
        parameters, vocoder = int(info["gpt"]["parameters"]), str(info["vocoder"])
    except DAMAGED as error:
        what = f"cannot be read: {error!r}"
        raise UserError(TITLE, [Problem(str(workspace.prepared), what, "dvc checkout --force")]) from None
    if problems := list(_strangers(origin.title, beside, here)):
        raise UserError(TITLE, problems)
    whole = max(weights.stat().st_size, WEIGHT_BYTES * parameters)  # frozen ones may not be in the file
    has_vocoder = vocoder == "hifigan" and (base / VOCODER).is_file()
    return Source(
        origin=origin,
        has_vocoder=has_vocoder,
        bytes=whole + ((base / VOCODER).stat().st_size if has_vocoder else 0),
        downloaded_bytes=0,
        open=lambda: in_place(files, seen),
    )


def _strangers(title: str, beside: dict[str, str], here: dict[str, str]) -> Iterator[Problem]:
    """What of prepared/ a model was not trained with, as far as anybody can tell: another's voice, another vocoder.

    Of the vocabulary it is known what it made of the recordings' texts: that is part of their digest.
    """
    remedy = "export its registered version, which has its own voice and base; or bring them back, then: dvc repro"
    for name, words in _NAMES.items():
        if name not in beside or name not in here:
            what = f"it cannot be told whether it was trained with the {words} in prepared/"
            yield Problem(title, what, remedy)
        elif beside[name] != here[name]:
            yield Problem(title, f"was trained with other {words} than those in prepared/", remedy)
