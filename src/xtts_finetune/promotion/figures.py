"""Mel CE and Text CE of two registered versions on one and the same eval split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xtts_finetune.core.digests import DIGESTS
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, CODEC, WEIGHTS, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.data.batches import Indices
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import pick_device
from xtts_finetune.model.xtts import VoiceBpeTokenizer
from xtts_finetune.promotion.bundles import bundle
from xtts_finetune.tracking.registry import EVAL_TAG, Version
from xtts_finetune.tracking.versions import Told, Versions
from xtts_finetune.training import loss

NAMES = ("mel_ce", "text_ce")
Figures = dict[str, float]  # by NAMES, in nats per token


class NotComparable(Exception):
    """Why two versions have no figures on one eval split."""


@dataclass(frozen=True)
class Compared:
    """Two versions' figures, and where they come from."""

    candidate: Figures
    champion: Figures
    how: str


def compared(
    workspace: Workspace, params: Params, registry: Versions, candidate: Version, champion: Version
) -> Compared:
    """Those of their evaluations, where it was the same eval split; else both are measured now, on prepared/.

    Raises:
        NotComparable: the audio codes of prepared/ are not those that one of them speaks in, or it cannot spell a
            transcript.
        UserError: there is no prepared/, or a version's files cannot be used.
    """
    told = [Told.of(version).figures for version in (candidate, champion)]
    splits = [version.tags.get(EVAL_TAG) for version in (candidate, champion)]
    if splits[0] is not None and splits[0] == splits[1] and all(name in each for each in told for name in NAMES):
        return Compared(told[0], told[1], "as evaluated, on the same eval split")
    measured = []
    for version in (candidate, champion):
        with bundle(workspace, params, registry, version) as folder:
            measured.append(measure(workspace, folder, f"version {version.version}"))
    return Compared(measured[0], measured[1], "both measured now, on the eval split in prepared/")


def measure(workspace: Workspace, folder: Path, name: str) -> Figures:
    """Of the model in a bundle, on the eval split in prepared/.

    Raises:
        NotComparable, UserError: as `compared`.
    """
    base = Base(folder / BUNDLE_BASE, workspace.root)
    own, here = _codec(folder / BUNDLE_BASE), _codec(workspace.prepared / BUNDLE_BASE)
    if own != here or own is None:
        raise NotComparable(f"{name} speaks in the audio codes of another codec than prepared/ has")
    tokenizer = base.tokenizer()
    try:
        reader = _Respelled(workspace.prepared, tokenizer)
    except ValueError as error:
        raise NotComparable(f"{name}: of a transcript of the eval split, {error}") from None
    gpt = base.gpt(folder / WEIGHTS).to(pick_device()).eval()
    batches = loss.eval_batches(reader, f"evaluating {name}", leave=False)
    sums = loss.evaluate(gpt, xtts.build_conditioning_mel(base.mel_stats()), batches)
    return {"mel_ce": sums.mel_ce, "text_ce": sums.text_ce}


def _codec(base: Path) -> str | None:
    """SHA-256 of what made, or reads, the audio codes beside a base.json; None: it does not say."""
    digests: Mapping[str, Any] = read_json(base / BASE_INFO).get(DIGESTS, {})
    return digests.get(f"{BUNDLE_BASE}/{CODEC}")


class _Respelled(FeatureReader):
    """The eval split with its transcripts in a version's own vocabulary."""

    def __init__(self, prepared: Path, tokenizer: VoiceBpeTokenizer) -> None:
        super().__init__(prepared, "eval")
        entries = [self[index].entry for index in range(len(self))]
        spelled = [xtts.encode_text(tokenizer, entry.text, entry.language) for entry in entries]
        self._spelled = [np.array(tokens, dtype=np.int32) for tokens in spelled]
        self.n_tokens: Indices = np.array([len(tokens) for tokens in spelled], dtype=np.int64)

    def tokens(self, index: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self._spelled[index]
