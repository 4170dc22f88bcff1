"""A model of this workspace to be exported: the best of a phase, or any step that is still there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import Record, identity_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, MODEL_CARD, REFERENCE, VOCODER, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import WEIGHT_BYTES
from xtts_finetune.export.source import DAMAGED, FIGURES, TITLE, Files, Origin, Source

_START = "initial_weights"  # of a run's trajectory


def of_phase(workspace: Workspace, params: Params, phase: PhaseName) -> Source | None:
    """The best of a phase; None: the phase has not been trained to its end.

    Raises:
        UserError: its card is damaged, it is of another base, or what `prepare` made is not there.
    """
    model = workspace.model(phase)
    if not (model / WEIGHTS).is_file():
        return None
    try:
        card = read_json(model / MODEL_CARD)
        figures = {name: float(card["eval"][name]) for name in FIGURES}
        origin = Origin(f"models/{phase}", phase, int(card["step"]), str(card["base"]), str(card["sha256"]), figures)
    except DAMAGED as error:
        remedy = "bring it back: dvc checkout --force"
        raise UserError(TITLE, [Problem(str(model / MODEL_CARD), f"cannot be read: {error!r}", remedy)]) from None
    if origin.base != params.base:
        what = f"was trained on the base {origin.base}, and params.yaml names {params.base}"
        raise UserError(TITLE, [Problem(str(model), what, "name its base there, or train again: dvc repro")])
    return _source(workspace, params, origin, model / WEIGHTS)


def of_step(workspace: Workspace, params: Params, phase: PhaseName, step: int) -> Source | None:
    """A state, or best weights, that training or DVC still keeps; None: there is none of that step.

    Raises:
        UserError: it is damaged, was trained from other weights, or what `prepare` made is not there.
    """
    checkpoint = next((each for each in checkpoints(workspace, phase) if each.step == step), None)
    if checkpoint is None:
        return None
    title = place_of(workspace, checkpoint)
    try:
        digest, state = str(checkpoint.manifest[WEIGHTS]["sha256"]), checkpoint.state
        start = Record.from_json(state).identity.trajectory[_START]
        bests = {name: float(state["position"][f"best_{name}"]) for name in FIGURES}
        figures = bests if state["position"]["best_step"] == step else {}
    except DAMAGED as error:
        raise UserError(TITLE, [Problem(title, f"is damaged: {error!r}", "choose another step")]) from None
    asked = identity_of(workspace, params, phase)
    if asked and asked.trajectory[_START] != start:
        what = "was trained from other weights than lie here now: the vocoder may be another's, too"
        raise UserError(TITLE, [Problem(title, what, "go back to its base and params.yaml, or choose another model")])
    return _source(workspace, params, Origin(title, phase, step, params.base, digest, figures), checkpoint.weights)


def checkpoints(workspace: Workspace, phase: PhaseName) -> list[Checkpoint]:
    """The best weights and the states of a phase, under way or done; of each step one."""
    found: dict[int, Checkpoint] = {}
    for reader in map(CheckpointReader, (workspace.work(phase), workspace.checkpoints(phase))):
        for each in (*reader.bests(), *reader.states()):
            found.setdefault(each.step, each)
    return [*found.values()]


def place_of(workspace: Workspace, checkpoint: Checkpoint) -> str:
    return checkpoint.folder.relative_to(workspace.root).as_posix()


def _source(workspace: Workspace, params: Params, origin: Origin, weights: Path) -> Source:
    base, reference = workspace.prepared / "base", workspace.prepared / REFERENCE
    missing = [file for file in (weights, base / BASE_INFO, reference) if not file.is_file()]
    if missing:
        remedy = "dvc checkout, or: dvc repro"
        raise UserError(TITLE, [Problem(str(file), "is not there", remedy) for file in missing])
    files, vocoder = Files(weights, base, workspace.root, reference, params.evaluate), base / VOCODER
    info = read_json(base / BASE_INFO)
    parameters = info.get("gpt", {}).get("parameters", 0)
    whole = max(weights.stat().st_size, WEIGHT_BYTES * parameters)  # frozen ones may not be in the file
    return Source(
        origin=origin,
        has_vocoder=info.get("vocoder") == "hifigan" and vocoder.is_file(),
        bytes=whole + (vocoder.stat().st_size if vocoder.is_file() else 0),
        downloaded_bytes=0,
        open=lambda: _in_place(files),
    )


@contextmanager
def _in_place(files: Files) -> Iterator[Files]:
    """Files of this workspace, whose trainer may replace them meanwhile, or let them go.

    Raises:
        UserError: it did.
    """
    before = _seen(files.weights)
    try:
        yield files
    except FileNotFoundError:
        if _seen(files.weights) == before:
            raise
    if _seen(files.weights) != before:
        what = "was replaced, or let go, while it was read: training goes on here"
        raise UserError(TITLE, [Problem(str(files.weights), what, "type this again, or choose another model")])


def _seen(file: Path) -> tuple[int, ...]:
    stat = file.stat() if file.is_file() else None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else ()
