"""Deterministic batches: what is drawn depends on the seed and the place in the run, never on what ran before."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtts_finetune.data.features import FeatureReader

CONDITIONING_MIN = 66_150  # samples: 3 s
CONDITIONING_MAX = 132_300  # samples: 6 s
CONDITIONING_STEP = 11_025  # samples: half a second
CONDITIONING_LEAST = 2_048  # samples: a window of the conditioning encoder's mel
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


def conditioning_length(samples: Indices, generator: np.random.Generator | None) -> int:
    """How long the voice prompts of a batch are: all alike, so that none has to be filled up with silence.

    As Coqui's get_prompt_slice draws it, 3 to 6 s, and half of a clip that is shorter, but in half seconds. Coqui then
    pads every prompt to 6 s, in training alone.

    Args:
        samples: (clips,) of each clip.
        generator: None for evaluation: a middle length.
    """
    length = (CONDITIONING_MIN + CONDITIONING_MAX) // 2
    if generator is not None:
        choices = (CONDITIONING_MAX - CONDITIONING_MIN) // CONDITIONING_STEP
        length = CONDITIONING_MIN + CONDITIONING_STEP * int(generator.integers(0, choices, endpoint=True))
    shortest = int(np.where(samples < length, samples // 2, length).min())
    step = CONDITIONING_STEP if shortest >= CONDITIONING_STEP else CONDITIONING_LEAST
    return max(shortest - shortest % step, min(CONDITIONING_LEAST, int(samples.min())))


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips end to end, without padding."""

    text: npt.NDArray[np.int32]  # (tokens of all clips,)
    text_lengths: Indices  # (clips,) tokens
    codes: npt.NDArray[np.int16]  # (codes of all clips,)
    code_lengths: Indices  # (clips,) codes
    conditioning: npt.NDArray[np.float32]  # (clips, samples of each voice prompt)
    conditioning_spans: Indices  # (clips, 2) start and end in samples of the clip


def collate(reader: FeatureReader, indices: Indices, place: tuple[str | int, ...] | None) -> Batch:
    """Read these clips as one batch.

    Args:
        indices: (clips,) into `reader`.
        place: in the run, which the voice prompts are drawn by; None for evaluation: from each clip's start.
    """
    samples = reader.samples[indices]
    length = conditioning_length(samples, rng(*place, "length") if place else None)
    starts = [
        int(rng(*place, row).integers(0, n - length, endpoint=True)) if place else 0 for row, n in enumerate(samples)
    ]
    slices = [reader.audio_slice(int(index), start, length) for index, start in zip(indices, starts, strict=True)]
    return Batch(
        text=np.concatenate([reader.tokens(int(index)) for index in indices]),
        text_lengths=reader.n_tokens[indices],
        codes=np.concatenate([reader.codes(int(index)) for index in indices]),
        code_lengths=reader.n_codes[indices],
        conditioning=np.stack(slices),
        conditioning_spans=np.array([[start, start + length] for start in starts]),
    )


def eval_groups(reader: FeatureReader, size: int) -> list[Indices]:
    """All clips, at most `size` together, none with a voice prompt that its neighbours shorten."""
    order = reader.samples.argsort(kind="stable")
    lengths = np.array([conditioning_length(reader.samples[[index]], None) for index in order])
    alike = np.split(order, np.flatnonzero(np.diff(lengths)) + 1)
    return [group[at : at + size] for group in alike for at in range(0, len(group), size)]
