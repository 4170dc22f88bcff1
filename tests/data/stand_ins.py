"""Stand-ins for tokenizer and DVAE, and a clip without a recording."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.data.checks import Accepted
from xtts_finetune.data.clips import Clip


def encode_text(text: str, language: str) -> list[int]:
    """A token per character."""
    return [ord(char) % 1000 for char in text]


def encode_audio(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """A code per stride that tells something of the sound there, and the one more that a DVAE may give."""
    codes = np.abs(samples[::1024] * 1000).astype(np.int64)
    return np.append(codes, 7)


def accepted_clip(
    name: str, text: str, seconds: float = 3.0, speaker: str = "a", language: str = "en", line: int = 1
) -> Accepted:
    """An accepted clip without a recording."""
    clip = Clip(name, Path(f"/nowhere/{name}.wav"), text, language, speaker, line)
    return Accepted(clip, round(seconds * SAMPLE_RATE), np.arange(5, dtype=np.int32), SAMPLE_RATE, 1, b"")
