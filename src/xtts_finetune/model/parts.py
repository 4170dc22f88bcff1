"""Which files make up a base, whichever way it came in: found by their names, before a network is loaded.

    base/xtts_v2/          XTTS v2's published files, byte for byte
    a folder of theirs     the same names: model.pth, vocab.json, config.json, dvae.pth, mel_stats.pth
    a fine-tune of Coqui's best_model.pth or checkpoint_N.pth of its trainer, which may hold the DVAE, and vocab.json
    an export of ours      config.json, vocab.json and model.pth, which holds mel_stats
    a registered model     model.safetensors, model.json, and base/ with the rest

What a fine-tune of XTTS v2 lacks of what training never changes, the DVAE and mel_stats, is XTTS v2's own.
"""

import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError, problems_of
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import (
    BASE_INFO,
    BUNDLE_BASE,
    CODEC,
    CONFIG,
    COQUI_MODEL,
    MEL_STATS,
    MODEL_CARD,
    VOCABULARY,
    VOCODER,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.model.header import Header
from xtts_finetune.model.published import FETCH, check_published, not_published, xtts_v2_folder

COQUI_CODEC, COQUI_STATS = "dvae.pth", "mel_stats.pth"
CODEC_PREFIX = "dvae."  # of its tensors in a checkpoint of Coqui's trainer
_CODEBOOK = f"{CODEC_PREFIX}codebook.embed"  # a path that its configuration names may begin with the prefix, too
PUBLISHED_CODEC = {"codes": 1024, "hidden_dim": 512, "resnet_blocks": 3, "codebook_dim": 512}
TITLE = "the base cannot be used"
COPY = "put what it lacks there, or correct base in params.yaml: mini, xtts_v2, or a folder as seen from base/"
_BEST = "best_model.pth"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # begin what torch.save writes: since 1.6, and before
_NUMBERED = re.compile(r"(best_model|checkpoint)_(\d{1,12})\.pth")
_NAMES_OF_WEIGHTS = f"{COQUI_MODEL}, {_BEST} or checkpoint_N.pth of Coqui's trainer, or {WEIGHTS} of a registered model"


@dataclass(frozen=True)
class Parts:
    """Where each part of a base lies; of a checkpoint several may be in one file."""

    source: Path
    weights: Path  # .pth of Coqui's, or .safetensors of ours
    vocabulary: Path
    config: Path | None  # None: XTTS v2's
    mel_stats: Path
    codec: Path
    codec_shape: dict[str, int]
    vocoder: Path | None  # None: its codec is its vocoder, as mini's

    def files(self) -> dict[str, Path]:
        """Every file by its name in the folder; of XTTS v2's own ones by where they lie."""
        parts = (self.config, self.vocabulary, self.weights, self.codec, self.mel_stats, self.vocoder)
        return {self._name(path): path for path in parts if path is not None}

    def notes(self) -> Iterator[str]:
        """What was chosen, in words."""
        others = [path.name for path in _checkpoints(self.source) if path != self.weights]
        if others and self.weights.suffix == ".pth":
            yield f"{self.weights.name} is taken, not {', '.join(others)}"
        if self.config is None:
            yield f"no {CONFIG} lies there: XTTS v2's is taken"
        for path in (self.codec, self.mel_stats):
            if not path.is_relative_to(self.source):
                yield f"{path.name} is XTTS v2's own: {path}"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.source if path.is_relative_to(self.source) else path.parents[1]).as_posix()


def find_parts(source: Path, pinned: bool, workspace: Workspace) -> Parts:
    """The parts of the base in a folder.

    Args:
        pinned: its files must be the published ones, byte for byte.

    Raises:
        UserError: some are missing or damaged; every problem is named.
    """
    if pinned:
        check_published(source, workspace.digests)
    if (source / WEIGHTS).is_file() or (source / BUNDLE_BASE / BASE_INFO).is_file():
        return _registered(source, workspace)
    return _of_coqui(source, workspace)


def _of_coqui(source: Path, workspace: Workspace) -> Parts:
    """A folder with a model.pth, or a checkpoint of Coqui's trainer."""
    found, vocabulary, config = _checkpoints(source), source / VOCABULARY, source / CONFIG
    missing = [] if vocabulary.is_file() else [VOCABULARY]
    if not found:
        lacking = [*missing, f"weights ({_NAMES_OF_WEIGHTS})"]
        raise UserError(TITLE, [Problem(str(source), f"lacks {', '.join(lacking)}", COPY)])
    problems = [Problem(str(source), f"lacks {', '.join(missing)}", COPY)] if missing else []
    weights, own = found[0], {name: source / name for name in (COQUI_CODEC, COQUI_STATS)}
    if not all(path.is_file() for path in own.values()):
        try:
            own = _within(weights, own)
        except UserError as error:
            raise UserError(TITLE, [*problems, *error.problems]) from None
    own, lacking_own = _with_xtts_v2s(own, weights, workspace)
    problems += [*lacking_own, *_not_torchs({weights, *own.values()})]
    if problems:
        raise UserError(TITLE, problems)
    return Parts(
        source=source,
        weights=weights,
        vocabulary=vocabulary,
        config=config if config.is_file() else None,
        mel_stats=own[COQUI_STATS],
        codec=own[COQUI_CODEC],
        codec_shape=PUBLISHED_CODEC,
        vocoder=weights,
    )


def _not_torchs(files: set[Path]) -> Iterator[Problem]:
    """Of files that are to be torch's: zips, whose end lists what is in them, or pickles of before."""
    for file in sorted(file for file in files if file.is_file()):
        with file.open("rb") as stream:
            start = stream.read(12)
        what = None
        if not start:
            what = "is empty"
        elif not start.startswith((_ZIP, _PICKLE)):
            what = f"is no file of torch's: it begins with {start!r}"
        elif start.startswith(_ZIP) and not zipfile.is_zipfile(file):
            what = "is cut short: its end is not there"
        if what:
            yield Problem(str(file), what, "fetch or copy the file again")


def _checkpoints(source: Path) -> list[Path]:
    """In the order in which they are taken: the best, model.pth, the newest; empty where there is no folder."""
    numbered = [(match, path) for path in source.glob("*.pth") if (match := _NUMBERED.fullmatch(path.name))]
    newest_first = sorted(numbered, key=lambda each: int(each[0][2]), reverse=True)
    bests = [path for match, path in newest_first if match[1] == "best_model"]
    others = [path for match, path in newest_first if match[1] == "checkpoint"]
    return [path for path in (source / _BEST, *bests, source / COQUI_MODEL, *others) if path.is_file()]


def _within(weights: Path, own: dict[str, Path]) -> dict[str, Path]:
    """`own`, and for what is not there the checkpoint itself, where it holds that."""
    names = {name.removeprefix("xtts.") for name in _names(weights)}
    held = {COQUI_CODEC: _CODEBOOK in names, COQUI_STATS: "mel_stats" in names}
    return {name: weights if held[name] and not path.is_file() else path for name, path in own.items()}


def _names(checkpoint: Path) -> set[str]:
    """The names in a checkpoint: its pickle is read, and not run.

    Raises:
        UserError: it cannot be read like this.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            [pickle] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(pickle) as stream:
                return {argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        what = f"is damaged, or not of torch's format since 1.6: {error}"[:200]
        remedy = f"copy it again, from a source you trust; or put {COQUI_CODEC} and {COQUI_STATS} beside it"
        raise UserError(TITLE, [Problem(str(checkpoint), what, remedy)]) from None


def _with_xtts_v2s(own: dict[str, Path], weights: Path, workspace: Workspace) -> tuple[dict[str, Path], list[Problem]]:
    """`own`, and for what is not there XTTS v2's, with what is wrong with that."""
    complete, problems = dict(own), list[Problem]()
    for name, path in own.items():
        if path.is_file():
            continue
        complete[name] = xtts_v2_folder(workspace) / name
        if complete[name].is_file():
            problems += not_published(complete[name], workspace.digests)
        else:
            what = f"lacks {name}, and neither {weights.name} nor {xtts_v2_folder(workspace)} has it"
            problems.append(Problem(str(path.parent), what, f"put it there; or XTTS v2's own: {FETCH}"))
    return complete, problems


def _registered(source: Path, workspace: Workspace) -> Parts:
    """A folder as it is registered: an exported best, and base/ with what it stands on."""
    base, weights = source / BUNDLE_BASE, source / WEIGHTS
    info, problems = _info(base / BASE_INFO)
    is_mini = info.get("vocoder") == "griffin_lim"
    needed = [weights, source / MODEL_CARD, *(base / name for name in (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS))]
    needed.append(base / (CODEC if is_mini else VOCODER))
    missing = [path.relative_to(source).as_posix() for path in needed if not path.is_file()]
    if missing:
        remedy = "take the registered model's whole folder, as base fetch models:/NAME/N does; or an export of it"
        problems.insert(0, Problem(str(source), f"lacks {', '.join(missing)}", remedy))
    else:
        problems += _not_its_weights(weights, source / MODEL_CARD, workspace) or problems_of(
            lambda: _refuse_part(weights)
        )
    codec = base / CODEC if is_mini or (base / CODEC).is_file() else source / COQUI_CODEC
    if not is_mini and codec.name == COQUI_CODEC:
        complete, lacking = _with_xtts_v2s({COQUI_CODEC: codec}, weights, workspace)
        codec, problems = complete[COQUI_CODEC], [*problems, *lacking]
    if problems:
        raise UserError(TITLE, problems)
    return Parts(
        source=source,
        weights=weights,
        vocabulary=base / VOCABULARY,
        config=base / CONFIG,
        mel_stats=base / MEL_STATS,
        codec=codec,
        codec_shape=info["codec"],
        vocoder=None if is_mini else base / VOCODER,
    )


def _refuse_part(weights: Path) -> None:
    try:
        is_part = Header.of_file(weights) is not None
    except UserError as error:
        what = f"is damaged or no safetensors file: {error.problems[0].what.removeprefix('cannot be read: ')}"
        remedy = "copy the file again, from a source you trust"
        raise UserError(TITLE, [Problem(str(weights), what, remedy)]) from None
    if is_part:
        what = "holds what was trained alone, beside another model's weights (registry.weights: trained)"
        remedy = "xtts-finetune export puts them together: use the folder that it writes"
        raise UserError(TITLE, [Problem(str(weights), what, remedy)])


def _info(file: Path) -> tuple[dict[str, Any], list[Problem]]:
    """base.json, as far as it is one, with what is wrong with it."""
    if not file.is_file():
        return {}, []
    try:
        info = read_json(file)
        shape = info["codec"]
        is_shape = set(shape) == set(PUBLISHED_CODEC) and all(type(n) is int and 0 < n < 10_000 for n in shape.values())
        if is_shape and info["vocoder"] in ("hifigan", "griffin_lim"):
            return info, []
        what = "names no vocoder and codec that are known here"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot be read: {error!r}"
    return {}, [Problem(str(file), what, "take the registered model's folder again")]


def _not_its_weights(weights: Path, card: Path, workspace: Workspace) -> list[Problem]:
    """What is wrong with the weights by their card."""
    remedy = "take the registered model's folder again"
    try:
        wanted = read_json(card)["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem(str(card), f"cannot be read: {error!r}", remedy)]
    digest = sha256_once(weights, workspace.digests)
    if digest == wanted:
        return []
    what = f"is damaged, or another model: its SHA-256 is {digest[:12]}…, and {card.name} says {str(wanted)[:12]}…"
    return [Problem(str(weights), what, remedy)]
