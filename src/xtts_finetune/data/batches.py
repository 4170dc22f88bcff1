"""Deterministic batches: what is drawn depends on the seed and the place in the run, never on what ran before."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_finetune.data.features import FeatureReader

CONDITIONING_MIN = 66_150  # samples: 3 s
CONDITIONING_MAX = 132_300  # samples: 6 s
WINDOW = 16  # batches among which clips are sorted by length

Indices = npt.NDArray[np.int64]


def rng(*parts: str | int) -> np.random.Generator:
    """A generator for this purpose and place, e.g. `rng("slice", seed, phase, step)`: the same on every machine."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(parts)[:16])))


def torch_seed(*parts: str | int) -> int:
    """A 63-bit seed for `torch.manual_seed`, of the same parts as `rng`'s."""
    return int.from_bytes(_digest(parts)[:8]) >> 1


def _digest(parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def epoch_batches(lengths: Indices, batch_size: int, seed: int, phase: str, epoch: int) -> list[Indices]:
    """The batches of one epoch: every clip once, clips of like length together, in random order.

    Args:
        lengths: (clips,) in any unit.

    Returns:
        Arrays of at most `batch_size` indices; one may be smaller.
    """
    generator = rng("batches", seed, phase, epoch)
    order = generator.permutation(len(lengths))
    window = WINDOW * batch_size
    batches: list[Indices] = []
    for start in range(0, len(order), window):
        near = order[start : start + window]
        near = near[np.argsort(lengths[near], kind="stable")]
        batches += [near[at : at + batch_size] for at in range(0, len(near), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def conditioning_slice(samples: int, generator: np.random.Generator | None) -> tuple[int, int]:
    """Which part of a clip is the voice prompt, as Coqui's get_prompt_slice chooses it.

    Args:
        samples: of the clip.
        generator: None for evaluation: a middle length, from the start.

    Returns:
        start and length in samples; half of the clip where it is shorter than the drawn length.
    """
    if generator is None:
        length = (CONDITIONING_MIN + CONDITIONING_MAX) // 2
    else:
        length = int(generator.integers(CONDITIONING_MIN, CONDITIONING_MAX, endpoint=True))
    if samples < length:
        length = samples // 2
    start = 0 if generator is None else int(generator.integers(0, samples - length, endpoint=True))
    return start, length


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips side by side, padded with zeros."""

    text: npt.NDArray[np.int32]  # (batch, tokens)
    text_lengths: Indices  # (batch,) tokens
    codes: Indices  # (batch, codes)
    samples: Indices  # (batch,) of the whole clip
    conditioning: npt.NDArray[np.float32]  # (batch, CONDITIONING_MAX)
    conditioning_spans: Indices  # (batch, 2) start and end in samples of the clip


def collate(reader: FeatureReader, indices: Indices, generators: Sequence[np.random.Generator] | None) -> Batch:
    """Read these clips as one batch.

    Args:
        indices: (batch,) into `reader`.
        generators: one per clip, for its conditioning slice; None for evaluation.
    """
    examples = [reader[int(index)] for index in indices]
    conditioning = np.zeros((len(examples), CONDITIONING_MAX), dtype=np.float32)
    spans = np.zeros((len(examples), 2), dtype=np.int64)
    for row, index in enumerate(indices):
        generator = generators[row] if generators is not None else None
        start, length = conditioning_slice(int(reader.samples[index]), generator)
        conditioning[row, :length] = reader.audio_slice(int(index), start, length)
        spans[row] = start, start + length
    return Batch(
        text=_padded([example.tokens for example in examples], np.int32),
        text_lengths=reader.n_tokens[indices],
        codes=_padded([example.codes for example in examples], np.int64),
        samples=reader.samples[indices],
        conditioning=conditioning,
        conditioning_spans=spans,
    )


def _padded(rows: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """(rows, longest row), zeros after each row's end."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
