"""Accept a clip or reject it with a reason; nothing is dropped or replaced in silence."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.params import PrepareParams
from xtts_finetune.data.clips import Clip

FULL_SCALE = 0.999  # |sample| from here on counts as clipped

EncodeText = Callable[[str, str], list[int]]  # (text, language) → token ids; may raise ClipRejected


class ClipRejected(Exception):
    """This clip cannot be used. `reason` reads "kind: detail", and reports count reasons by kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Rejection:
    """A clip that was left out, and why."""

    clip: Clip
    reason: str

    @property
    def kind(self) -> str:
        return self.reason.split(":")[0]


@dataclass(frozen=True, eq=False, slots=True)
class Accepted:
    """A clip that passed every check, and what was measured on the way."""

    clip: Clip
    samples: int  # at SAMPLE_RATE
    tokens: npt.NDArray[np.int32]  # (tokens,)
    rate: int  # Hz, of the recording
    channels: int  # of the recording
    digest: bytes  # SHA-256 of its 16-bit samples: `audio.digest`

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


def check_text(clip: Clip, encode_text: EncodeText, params: PrepareParams) -> npt.NDArray[np.int32]:
    """The clip's tokens, shape (tokens,).

    Raises:
        ClipRejected: there is no text, it is too long, or `encode_text` refuses it.
    """
    if not clip.text:
        raise ClipRejected("no text: the transcript is empty")
    tokens = encode_text(clip.text, clip.language)
    if len(tokens) > params.max_text_tokens:
        raise ClipRejected(f"text too long: {len(tokens)} tokens, max_text_tokens is {params.max_text_tokens}")
    return np.array(tokens, dtype=np.int32)


def check_audio(audio: npt.NDArray[np.float32], params: PrepareParams) -> None:
    """Check the sound itself.

    Args:
        audio: (samples,) at SAMPLE_RATE, in [-1, 1], at least one sample.

    Raises:
        ClipRejected: too short, too long, silent or clipped.
    """
    seconds = len(audio) / SAMPLE_RATE
    if seconds < params.min_seconds:
        raise ClipRejected(f"too short: {seconds:.2f} s, min_seconds is {params.min_seconds}")
    if seconds > params.max_seconds:
        raise ClipRejected(f"too long: {seconds:.2f} s, max_seconds is {params.max_seconds}")
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    loudness = 10 * math.log10(power) if power > 0 else -math.inf
    if loudness < params.min_rms_dbfs:
        raise ClipRejected(f"silence: {loudness:.1f} dBFS, min_rms_dbfs is {params.min_rms_dbfs}")
    clipped = float(np.mean(np.abs(audio) >= FULL_SCALE))
    if clipped > params.max_clipped_fraction:
        limit = f"max_clipped_fraction is {params.max_clipped_fraction}"
        raise ClipRejected(f"clipped: {clipped:.1%} of the samples at full scale, {limit}")
