"""Recordings and their list: of the samples, of noise, and such as must be turned down."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from making.project import SAMPLES
from xtts_finetune.core.constants import SAMPLE_RATE

# Clips that must be turned down, and why: id → the reason's beginning in reports/dataset.json.
BAD_CLIPS = {
    "zero-bytes": "undecodable: ",
    "no-samples": "empty: ",
    "not-sound": "undecodable: ",
    "not-there": "missing file: wavs/not-there.wav",
    "silent": "silence: -inf dBFS, min_rms_dbfs is -55.0",
    "no-text": "no text: ",
}
BAD_LINES = [f"{name}|{'' if name == 'no-text' else 'Hello.'}|" for name in BAD_CLIPS]


def noise(seed: int, seconds: float, rate: int = SAMPLE_RATE, level: float = 0.1) -> npt.NDArray[np.float32]:
    """16-bit values as float32, different for every seed."""
    sound = np.random.default_rng(seed).normal(0, level, round(seconds * rate)).astype(np.float32)
    return np.rint(sound * 32_768).clip(-32_000, 32_000).astype(np.float32) / 32_768


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


def sample_lines(count: int | None = None) -> list[str]:
    """Lines of the samples' metadata.csv: all, or so many, evenly spread."""
    lines = (SAMPLES / "metadata.csv").read_text(encoding="utf-8").splitlines()
    return lines if count is None else [lines[at * len(lines) // count] for at in range(count)]


def write_metadata(data: Path, lines: Iterable[str]) -> None:
    (data / "wavs").mkdir(parents=True, exist_ok=True)
    (data / "metadata.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def add_samples(data: Path, count: int, *more_lines: str) -> None:
    """Fill data/ with `count` of the samples, and further lines of metadata.csv."""
    lines = sample_lines(count)
    write_metadata(data, [*lines, *more_lines])
    for line in lines:
        name = f"wavs/{line.split('|')[0]}.ogg"
        shutil.copyfile(SAMPLES / name, data / name)


def add_bad_clips(data: Path) -> None:
    """The recordings of BAD_LINES, but the one that is not there."""
    wavs = data / "wavs"
    (wavs / "zero-bytes.wav").touch()
    (wavs / "not-sound.wav").write_text("A shopping list: milk, bread, eggs.\n" * 99, encoding="utf-8")
    soundfile.write(wavs / "no-samples.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(wavs / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(wavs / "no-text.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)


def sample_clips(folder: Path, count: int) -> list[tuple[Path, str]]:
    """(16-bit WAV at 22 050 Hz, text) of that many clips, from the longest to the shortest.

    They are the starter's, or those of the LJSpeech-like folder that XTTS_FINETUNE_TEST_CLIPS names.
    """
    source = Path(os.environ.get("XTTS_FINETUNE_TEST_CLIPS", SAMPLES))
    files = sorted((source / "wavs").iterdir(), key=lambda file: -soundfile.info(file).duration)
    rows = (line.split("|") for line in (source / "metadata.csv").read_text(encoding="utf-8").splitlines())
    texts = {row[0]: row[2] for row in rows}
    folder.mkdir(parents=True)
    clips = []
    for file in files[:: -(-len(files) // count)]:
        sound, rate = soundfile.read(file)
        soundfile.write(folder / f"{file.stem}.wav", sound, rate, subtype="PCM_16")
        clips.append((folder / f"{file.stem}.wav", texts[file.stem]))
    return clips
