"""Which model is exported: a registered version, the best of a phase, or any step that is still there."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, scratch_folder
from xtts_finetune.core.layout import (
    BASE_INFO,
    BUNDLE_BASE,
    CONFIG,
    MEL_STATS,
    MODEL_CARD,
    PHASES,
    REFERENCE,
    SETTINGS,
    VOCABULARY,
    VOCODER,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import EvaluateParams, Params
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.registry import CHAMPION, Version
from xtts_finetune.tracking.versions import Versions, shown

TITLE = "nothing was exported"
_STEP = re.compile(rf"({'|'.join(PHASES)})(?:@(\d+))?")
_BUNDLED_BASE = (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS, VOCODER)
_BUNDLED = (WEIGHTS, REFERENCE, SETTINGS, *(f"{BUNDLE_BASE}/{name}" for name in _BUNDLED_BASE))
_BUNDLED_VOCODER = f"{BUNDLE_BASE}/{VOCODER}"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Files:
    """All that an export is made from."""

    weights: Path
    base: Path  # prepared/base/, or a bundle's
    reference: Path  # the voice, as of `Speaker`
    settings: EvaluateParams


@dataclass(frozen=True)
class Source:
    """A model that can be exported."""

    title: str  # where it comes from, in words
    phase: str
    step: int
    base: str  # as params.yaml names it
    sha256: str  # its weights must have
    figures: dict[str, float]  # mel_ce and text_ce on the eval split, as far as they are known
    has_vocoder: bool  # XTTS v2's
    weight_bytes: int
    vocoder_bytes: int
    downloaded_bytes: int  # into work/; 0: the files are used where they are
    open: Callable[[], AbstractContextManager[Files]]


def find_source(workspace: Workspace, params: Params, wanted: str | None) -> Source:
    """The model that `wanted` names; None: the champion, or the newest phase's where none is registered.

    Args:
        wanted: an alias or number of a registered version, a phase, or phase@step.

    Raises:
        UserError: there is no such model, or it is not whole, or another's; or MLflow cannot be used.
    """
    if wanted is None:
        return _usual(workspace, params)
    named = _STEP.fullmatch(wanted)
    if named:
        phase = next(phase for phase in PHASES if phase == named[1])
        found = _of_step(workspace, params, phase, int(named[2])) if named[2] else _of_phase(workspace, params, phase)
    else:
        found = _of_version(workspace, params, wanted)
    if found is None:
        raise _unknown(workspace, params, wanted)
    return found


def _usual(workspace: Workspace, params: Params) -> Source:
    found = _of_version(workspace, params, CHAMPION)
    for phase in reversed(PHASES):
        found = found or _of_phase(workspace, params, phase)
    if found is None:
        where = str(workspace.model(PHASES[0]).parent)
        raise UserError(TITLE, [Problem(where, "no model is trained or registered yet", "dvc repro")])
    return found


def _unknown(workspace: Workspace, params: Params, wanted: str) -> UserError:
    there = "".join(f"\n        {line}" for line in _what_there_is(workspace, params))
    what = f"there is no such model; there is:{there}" if there else "there is no model yet"
    return UserError("no such model", [Problem(wanted, what, "choose one of them" if there else "dvc repro")])


def _what_there_is(workspace: Workspace, params: Params) -> Iterator[str]:
    """A line for each: what to type, and what it is."""
    try:
        registry = _registry(workspace, params)
    except UserError as error:
        yield f"{error.title}: {error.problems[0].what}"
    else:
        for version in registry.versions if registry else ():
            yield f"{next(iter(version.aliases), version.version)!s:<15} {shown(version)}"
    for phase in PHASES:
        if (workspace.model(phase) / WEIGHTS).is_file():
            yield f"{phase:<15} models/{phase}"
    for phase in PHASES:
        for checkpoint in _checkpoints(workspace, phase):
            yield f"{f'{phase}@{checkpoint.step}':<15} {_place(workspace, checkpoint)}"


# A registered version.


def _registry(workspace: Workspace, params: Params) -> Versions | None:
    """None where this workspace's own store has yet to be made."""
    if params.tracking.uri is None and not workspace.tracking_db.is_file():
        return None
    return Versions.of(open_store(workspace, params.tracking), params.registry.model_name)


def _of_version(workspace: Workspace, params: Params, wanted: str) -> Source | None:
    registry = _registry(workspace, params)
    version = registry.get(wanted) if registry else None
    if registry is None or version is None:
        return None
    sizes, here = registry.sizes(version), registry.own_folder(version)
    lacking = [name for name in _BUNDLED if name not in (*sizes, _BUNDLED_VOCODER)]
    if lacking:
        what = f"its files cannot be had: {', '.join(lacking)}"
        raise UserError(TITLE, [Problem(f"{version.name} version {version.version}", what, "choose another model")])
    return Source(
        title=f"{version.name} {shown(version)}",
        phase=version.tags.get("phase", ""),
        step=int(version.tags.get("step", 0)),
        base=version.tags.get("base", ""),
        sha256=version.tags.get(WEIGHTS_TAG, ""),
        figures={name: float(version.tags[f"eval_{name}"]) for name in _FIGURES if f"eval_{name}" in version.tags},
        has_vocoder=_BUNDLED_VOCODER in sizes,  # of mini it is a DVAE
        weight_bytes=sizes[WEIGHTS],
        vocoder_bytes=sizes.get(_BUNDLED_VOCODER, 0),
        downloaded_bytes=0 if here else sum(sizes.get(name, 0) for name in _BUNDLED),
        open=lambda: nullcontext(_bundled(here)) if here else _downloaded(workspace, registry, version),
    )


@contextmanager
def _downloaded(workspace: Workspace, registry: Versions, version: Version) -> Iterator[Files]:
    with scratch_folder(workspace.digests.with_name("export")) as folder:
        print(f"fetching version {version.version} from {registry.store.uri}", flush=True)
        registry.fetch(version, folder, _BUNDLED)
        yield _bundled(folder)


def _bundled(folder: Path) -> Files:
    try:
        settings = EvaluateParams.model_validate_json((folder / SETTINGS).read_text(encoding="utf-8"))
    except _DAMAGED as error:
        problem = Problem(str(folder / SETTINGS), f"cannot be read: {error}", "choose another version")
        raise UserError(TITLE, [problem]) from None
    return Files(folder / WEIGHTS, folder / BUNDLE_BASE, folder / REFERENCE, settings)


# A model of this workspace.


def _of_phase(workspace: Workspace, params: Params, phase: PhaseName) -> Source | None:
    """The best of a phase; None: the phase has not been trained to its end."""
    model = workspace.model(phase)
    if not (model / WEIGHTS).is_file():
        return None
    try:
        card = read_json(model / MODEL_CARD)
        figures = {name: float(card["eval"][name]) for name in _FIGURES}
        step, digest, base = int(card["step"]), str(card["sha256"]), str(card["base"])
    except _DAMAGED as error:
        remedy = "bring it back: dvc checkout --force"
        raise UserError(TITLE, [Problem(str(model / MODEL_CARD), f"cannot be read: {error!r}", remedy)]) from None
    if base != params.base:
        what = f"was trained on the base {base}, and params.yaml names {params.base}"
        raise UserError(TITLE, [Problem(str(model), what, "name its base there, or train again: dvc repro")])
    return _of_here(workspace, params, f"models/{phase}", phase, step, digest, figures, model / WEIGHTS)


def _of_step(workspace: Workspace, params: Params, phase: PhaseName, step: int) -> Source | None:
    """A state, or best weights, that training or DVC still keeps."""
    checkpoint = next((each for each in _checkpoints(workspace, phase) if each.step == step), None)
    if checkpoint is None:
        return None
    try:
        digest, position = str(checkpoint.manifest[WEIGHTS]["sha256"]), checkpoint.state["position"]
        bests = {name: float(position[f"best_{name}"]) for name in _FIGURES}
        figures = bests if position["best_step"] == step else {}
    except _DAMAGED as error:
        what = f"is damaged: {error!r}"
        raise UserError(TITLE, [Problem(str(checkpoint.folder), what, "choose another step")]) from None
    title = _place(workspace, checkpoint)
    return _of_here(workspace, params, title, phase, step, digest, figures, checkpoint.weights)


def _of_here(
    workspace: Workspace,
    params: Params,
    title: str,
    phase: PhaseName,
    step: int,
    sha256: str,
    figures: dict[str, float],
    weights: Path,
) -> Source:
    base = workspace.prepared / "base"
    needed = (weights, base / BASE_INFO, workspace.prepared / REFERENCE)
    missing = [file for file in needed if not file.is_file()]
    if missing:
        remedy = "dvc checkout, or: dvc repro"
        raise UserError(TITLE, [Problem(str(file), "is not there", remedy) for file in missing])
    vocoder, files = base / VOCODER, Files(weights, base, workspace.prepared / REFERENCE, params.evaluate)
    return Source(
        title=title,
        phase=phase,
        step=step,
        base=params.base,
        sha256=sha256,
        figures=figures,
        has_vocoder=read_json(base / BASE_INFO).get("vocoder") == "hifigan",
        weight_bytes=weights.stat().st_size,
        vocoder_bytes=vocoder.stat().st_size if vocoder.is_file() else 0,
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


def _checkpoints(workspace: Workspace, phase: PhaseName) -> list[Checkpoint]:
    """The best weights and the states of a phase, under way or done; of each step one."""
    readers = [CheckpointReader(folder) for folder in (workspace.work(phase), workspace.checkpoints(phase))]
    found = [each for reader in readers for each in (*reader.bests(), *reader.states())]
    return [*{each.step: each for each in reversed(found)}.values()][::-1]


def _place(workspace: Workspace, checkpoint: Checkpoint) -> str:
    return checkpoint.folder.relative_to(workspace.root).as_posix()


_FIGURES = ("mel_ce", "text_ce")
