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


@dataclass(frozen=True, eq=False)
class Budget:
    """How many tokens a batch may have, where it is not to be filled by clips alone."""

    tokens: Indices  # (clips,) of each clip
    most: int  # a clip that has more is a batch of its own


def epoch_batches(
    lengths: Indices, batch_size: int, seed: int, phase: str, epoch: int, budget: Budget | None = None
) -> list[Indices]:
    """The batches of one epoch: every clip once, clips of like length together, in random order.

    Args:
        lengths: (clips,) in any unit.

    Returns:
        Arrays of at most `batch_size` indices; without a budget, one may be smaller.
    """
    generator = rng("batches", seed, phase, epoch)
    order = generator.permutation(len(lengths))
    window = WINDOW * batch_size
    batches: list[Indices] = []
    for start in range(0, len(order), window):
        near = order[start : start + window]
        near = near[np.argsort(lengths[near], kind="stable")]
        batches += np.split(near, _cuts(near, batch_size, budget))
    return [batches[index] for index in generator.permutation(len(batches))]


def _cuts(clips: Indices, batch_size: int, budget: Budget | None) -> list[int]:
    """Where batches begin among `clips`, behind the first."""
    if budget is None:
        return list(range(batch_size, len(clips), batch_size))
    cuts, first, held = list[int](), 0, 0
    for at, count in enumerate(budget.tokens[clips].tolist()):
        if at > first and (at - first == batch_size or held + count > budget.most):
            cuts.append(at)
            first, held = at, 0
        held += count
    return cuts


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


def voice_prompts(samples: Indices, place: tuple[str | int, ...] | None) -> Indices:
    """Where the voice prompts of a batch start and end: (clips, 2) in samples of each clip.

    Args:
        samples: (clips,) of each clip.
        place: in the run, which they are drawn by; None for evaluation: from each clip's start.
    """
    length = conditioning_length(samples, rng(*place, "length") if place else None)
    starts = [
        int(rng(*place, row).integers(0, n - length, endpoint=True)) if place else 0 for row, n in enumerate(samples)
    ]
    return np.array([[start, start + length] for start in starts], dtype=np.int64)


def collate(reader: FeatureReader, indices: Indices, prompts: Indices) -> Batch:
    """Read these clips as one batch.

    Args:
        indices: (clips,) into `reader`.
        prompts: (clips, 2) as `voice_prompts` gives them.
    """
    spans = zip(indices.tolist(), prompts.tolist(), strict=True)
    slices = [reader.audio_slice(index, start, end - start) for index, (start, end) in spans]
    return Batch(
        text=np.concatenate([reader.tokens(int(index)) for index in indices]),
        text_lengths=reader.n_tokens[indices],
        codes=np.concatenate([reader.codes(int(index)) for index in indices]),
        code_lengths=reader.n_codes[indices],
        conditioning=np.stack(slices),
        conditioning_spans=prompts,
    )


def alike(train: FeatureReader, evaluation: FeatureReader) -> Indices:
    """Clips to train on, as many as there are to evaluate, and as long: what they score can be held beside those."""
    order = train.samples.argsort(kind="stable")
    count = min(len(evaluation), len(order))
    return np.asarray(order[(np.arange(count) * 2 + 1) * len(order) // (2 * count)])


def eval_groups(reader: FeatureReader, size: int, chosen: Indices | None = None) -> list[Indices]:
    """Clips, at most `size` together, none with a voice prompt that its neighbours shorten.

    Args:
        chosen: None: all.
    """
    indices = np.arange(len(reader.samples)) if chosen is None else np.sort(chosen)
    order = indices[reader.samples[indices].argsort(kind="stable")]
    lengths = np.array([conditioning_length(reader.samples[[index]], None) for index in order])
    alike = np.split(order, np.flatnonzero(np.diff(lengths)) + 1)
    return [group[at : at + size] for group in alike for at in range(0, len(group), size)]
