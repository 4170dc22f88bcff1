"""Mel CE and Text CE of two registered versions on one and the same eval split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtts_finetune.core.digests import DIGESTS
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, CODEC, WEIGHTS, Workspace
from xtts_finetune.data.batches import Indices
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import pick_device
from xtts_finetune.model.xtts import VoiceBpeTokenizer
from xtts_finetune.tracking.registry import EVAL_TAG, Version
from xtts_finetune.tracking.versions import Told
from xtts_finetune.training import loss

NAMES = ("mel_ce", "text_ce")
Figures = dict[str, float]  # by NAMES, in nats per token


class NotMeasured(Exception):
    """Why versions cannot be held against each other by a rule."""


class NotThere(NotMeasured):
    """What would be measured does not lie on this machine."""


def reasons(error: UserError) -> str:
    """What stands in the way, in a line."""
    return "; ".join(f"{each.where} {each.what}" for each in error.problems)


def as_evaluated(candidate: Version, champion: Version) -> tuple[Figures, Figures] | None:
    """Those of their evaluations, where it was the same eval split."""
    ours, theirs = (Told.of(version).figures for version in (candidate, champion))
    split = candidate.tags.get(EVAL_TAG)
    if split is None or split != champion.tags.get(EVAL_TAG) or not all(n in ours and n in theirs for n in NAMES):
        return None
    return ours, theirs


def measure(workspace: Workspace, folder: Path, name: str) -> Figures:
    """Of the model in a bundle, on the eval split in prepared/.

    Raises:
        NotMeasured: the audio codes of prepared/ are not those that it speaks in, or it cannot spell a transcript.
        UserError: there is no prepared/, or a file is damaged.
    """
    base = Base(folder / BUNDLE_BASE, workspace.root)
    tokenizer = base.tokenizer()
    try:
        reader = _Respelled(workspace.prepared, tokenizer)
    except ValueError as error:
        raise NotMeasured(f"{name}: of a transcript of the eval split, {error}") from None
    own, here = _codec(folder / BUNDLE_BASE), _codec(workspace.prepared / BUNDLE_BASE)
    if own != here or own is None:
        raise NotMeasured(f"{name} speaks in the audio codes of another codec than prepared/ has")
    gpt = base.gpt(folder / WEIGHTS).to(pick_device()).eval()
    batches = loss.eval_batches(reader, f"evaluating {name}", leave=False)
    sums = loss.evaluate(gpt, xtts.build_conditioning_mel(base.mel_stats()), batches)
    return {"mel_ce": sums.mel_ce, "text_ce": sums.text_ce}


def _codec(base: Path) -> str | None:
    """SHA-256 of what made, or reads, the audio codes beside a base.json; None: nothing says so."""
    if not (base / BASE_INFO).is_file():
        return None
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
