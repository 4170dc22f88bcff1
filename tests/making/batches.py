"""Batches without recordings."""

from collections.abc import Sequence

import numpy as np

from xtts_finetune.data.batches import CONDITIONING_MAX, Batch, collate, voice_prompts
from xtts_finetune.data.features import FeatureReader


def random_batch(count: int) -> Batch:
    """Clips of different lengths, with random content."""
    generator = np.random.default_rng(0)
    text, codes = np.arange(count) * 3 + 20, np.arange(count) * 7 + 80
    return Batch(
        text=generator.integers(2, 20, text.sum()).astype(np.int32),
        text_lengths=text,
        codes=generator.integers(0, 1024, codes.sum()).astype(np.int16),
        code_lengths=codes,
        conditioning=generator.normal(0, 0.1, (count, CONDITIONING_MAX)).astype(np.float32),
        conditioning_spans=np.array([[0, 70_000]] * count),
    )


def collated(reader: FeatureReader, clips: Sequence[int], place: tuple[str | int, ...] | None = None) -> Batch:
    """These clips as one batch, their voice prompts drawn by `place`, or as for an evaluation."""
    indices = np.array(clips, np.int64)
    return collate(reader, indices, voice_prompts(reader.samples[indices], place))
