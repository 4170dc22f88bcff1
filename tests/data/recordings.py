"""What these tests share: small recordings made on the spot, and stand-ins for tokenizer and DVAE."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.data.checks import Accepted
from xtts_finetune.data.clips import Clip


def noise(seed: int, seconds: float, rate: int = SAMPLE_RATE, level: float = 0.1) -> npt.NDArray[np.float32]:
    """16-bit values as float32, different for every seed."""
    pcm = np.random.default_rng(seed).normal(0, level * 32_768, round(seconds * rate)).clip(-32_000, 32_000)
    return (pcm.astype(np.int16) / 32_768).astype(np.float32)


class Recordings:
    """A data/ folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "wavs").mkdir(parents=True)

    def write(self, name: str, samples: npt.NDArray[np.float32], rate: int = SAMPLE_RATE, subtype: str = "") -> Path:
        path = self.root / "wavs" / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, rate, subtype=subtype or None)
        return path

    def metadata(self, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        (self.root / "metadata.csv").write_bytes(data)

    def clips(self, seconds: Sequence[float]) -> None:
        """A data set of so many clips, each with a text of its own."""
        for index, length in enumerate(seconds):
            self.write(f"c{index:04}.wav", noise(index, length))
        self.metadata("".join(f"c{index:04}|Text number {index}.\n" for index in range(len(seconds))))


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
    return Accepted(clip, round(seconds * SAMPLE_RATE), np.arange(5, dtype=np.int32), SAMPLE_RATE, 1)
