"""Features on disk: one flat file per kind, memory-mapped, so that memory does not grow with the number of clips.

A split is four files in `prepared/`, all in the same order: `<split>.jsonl` (an `Entry` per line), `<split>.audio.i16`
(PCM at SAMPLE_RATE), `<split>.codes.i16` and `<split>.tokens.i32`, little-endian and without headers. Where a clip
begins follows from the counts in the manifest.
"""

import hashlib
import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from xtts_finetune.core.constants import CODE_STRIDE, SAMPLE_RATE
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import SplitName
from xtts_finetune.data.audio import Samples, dequantise, quantise
from xtts_finetune.data.clips import Clip

DTYPES: dict[str, np.dtype[Any]] = {
    ".audio.i16": np.dtype("<i2"),
    ".codes.i16": np.dtype("<i2"),
    ".tokens.i32": np.dtype("<i4"),
}
Count = TypeVar("Count", int, npt.NDArray[np.int64])


@dataclass(frozen=True)
class Entry:
    """A clip's line in the manifest."""

    id: str
    text: str
    language: str
    speaker: str
    seconds: float
    samples: int
    codes: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Example:
    """One clip's features, as views of the files."""

    entry: Entry
    audio: npt.NDArray[np.int16]  # (samples,)
    codes: npt.NDArray[np.int16]  # (codes,)
    tokens: npt.NDArray[np.int32]  # (tokens,)


def code_count(samples: Count) -> Count:
    """How many audio codes a clip has, or each of several: the last one covers what is left of a stride."""
    return -(-samples // CODE_STRIDE)


class FeatureWriter:
    """Writes one split, clip by clip, into an existing folder; a context manager.

    What an exception leaves behind is no valid split: write into a folder that is published when whole.
    """

    def __init__(self, prepared: Path, split: SplitName) -> None:
        with ExitStack() as stack:
            names = [f"{split}{suffix}" for suffix in (".jsonl", *DTYPES)]
            self._files = {name: stack.enter_context((prepared / name).open("wb")) for name in names}
            self._hashes = {name: hashlib.sha256() for name in names}
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def add(self, clip: Clip, audio: Samples, codes: npt.NDArray[np.integer], tokens: npt.NDArray[np.integer]) -> None:
        """Append a clip.

        Args:
            audio: (samples,) in [-1, 1] at SAMPLE_RATE; kept as 16-bit PCM.
            codes: (code_count(samples),) or longer: the DVAE may give one more, which is cut off.
            tokens: (tokens,)
        """
        count = code_count(len(audio))
        assert len(codes) >= count, f"{clip.id}: {len(codes)} codes for {len(audio)} samples"
        seconds = round(len(audio) / SAMPLE_RATE, 3)
        entry = Entry(clip.id, clip.text, clip.language, clip.speaker, seconds, len(audio), count, len(tokens))
        line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
        arrays = zip((quantise(audio), codes[:count], tokens), DTYPES.values(), strict=True)
        contents = (line, *(array.astype(dtype).tobytes() for array, dtype in arrays))
        for name, content in zip(self._files, contents, strict=True):
            self._files[name].write(content)
            self._hashes[name].update(content)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file, by its name: of what was written so far."""
        return {name: running.hexdigest() for name, running in self._hashes.items()}


class FeatureReader:
    """Reads one split: `len(reader)`, `reader[i]`, and the lengths of all clips.

    Attributes:
        samples, n_codes, n_tokens: (clips,) int64 counts.

    Raises:
        UserError: files are missing, or do not have the sizes that the manifest says.
    """

    def __init__(self, prepared: Path, split: SplitName) -> None:
        manifest = prepared / f"{split}.jsonl"
        counts, ends = _scan(manifest)
        _check_sizes(prepared, split, counts)
        self.samples, self.n_codes, self.n_tokens = counts.T
        self._lines = _mapped(manifest, np.dtype(np.uint8))
        self._line_offsets = ends
        self._files = [_mapped(prepared / f"{split}{suffix}", dtype) for suffix, dtype in DTYPES.items()]
        self._offsets = np.concatenate([np.zeros((1, 3), np.int64), counts.cumsum(axis=0)])  # (clips + 1, 3)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        line = self._lines[self._line_offsets[index] : self._line_offsets[index + 1]]
        audio, codes, tokens = (self._feature(kind, index) for kind in range(len(DTYPES)))
        return Example(Entry(**json.loads(line.tobytes())), audio, codes, tokens)

    def codes(self, index: int) -> npt.NDArray[np.int16]:
        """(codes,) of a clip."""
        return self._feature(1, index)

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """(tokens,) of a clip."""
        return self._feature(2, index)

    def _feature(self, kind: int, index: int) -> npt.NDArray[Any]:
        """A clip's part of the file of one kind, in the order of DTYPES."""
        return self._files[kind][self._offsets[index, kind] : self._offsets[index + 1, kind]]

    def audio_slice(self, index: int, start: int, length: int) -> Samples:
        """(length,) float32 samples of a clip, from `start` on; both must lie inside the clip."""
        assert 0 <= start <= start + length <= self.samples[index], "a slice lies inside its clip"
        begin = self._offsets[index, 0] + start
        return dequantise(self._files[0][begin : begin + length])


def _scan(manifest: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(clips, 3) counts of samples, codes and tokens, and (clips + 1,) offsets of the manifest's lines in bytes."""
    counts: list[tuple[int, int, int]] = []
    sizes = [0]
    try:
        with manifest.open("rb") as stream:
            for line in stream:
                entry = Entry(**json.loads(line))
                counts.append((entry.samples, entry.codes, entry.tokens))
                sizes.append(len(line))
    except OSError as error:
        raise _broken([Problem(str(manifest), f"cannot be read: {error.strerror}", _REMEDY)]) from None
    except (ValueError, TypeError):
        raise _broken([Problem(f"{manifest}:{len(sizes)}", "is not a clip's entry", _REMEDY)]) from None
    if not counts:
        raise _broken([Problem(str(manifest), "is empty", _REMEDY)])
    return np.array(counts, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)


def _check_sizes(prepared: Path, split: SplitName, counts: npt.NDArray[np.int64]) -> None:
    problems = []
    for (suffix, dtype), count in zip(DTYPES.items(), counts.sum(axis=0), strict=True):
        path, expected = prepared / f"{split}{suffix}", int(count) * dtype.itemsize
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            problems.append(Problem(str(path), f"has {size} bytes, its manifest says {expected}", _REMEDY))
    if problems:
        raise _broken(problems)


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The file as a flat read-only array; a view without memmap's own cost per slice."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


_REMEDY = "dvc repro -f prepare"


def _broken(problems: list[Problem]) -> UserError:
    return UserError("the prepared features cannot be used", problems)
