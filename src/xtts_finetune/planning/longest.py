"""The largest batch that a training can meet: what its memory has to hold."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.layout import SPLITS, SplitName, Workspace
from xtts_finetune.core.params import Params, PrepareParams
from xtts_finetune.data.batches import CONDITIONING_MAX, Batch
from xtts_finetune.data.features import FeatureReader, code_count
from xtts_finetune.dvcio.prepared import outdated
from xtts_finetune.model.forward import LATENTS

Counts = npt.NDArray[np.int64]
ALLOWED = 4096  # clips as long as they may be: more than a batch has


@dataclass(frozen=True, eq=False)
class Clips:
    """The longest that there can be, from the longest on.

    Attributes:
        counts: (clips, 2) audio codes and text tokens of each.
        samples: (clips,)
        source: where that is known from, in words.
    """

    counts: Counts
    samples: Counts
    source: str

    @classmethod
    def prepared(cls, reader: FeatureReader, split: SplitName) -> "Clips":
        """Those of a split."""
        counts = np.stack([reader.n_codes, reader.n_tokens], axis=1)
        order = counts.sum(axis=1).argsort(kind="stable")[::-1]
        return cls(counts[order], reader.samples[order], f"the longest of prepared/{split}.jsonl")

    @classmethod
    def allowed(cls, prepare: PrepareParams) -> "Clips":
        """As many as there can be, as long as the parameters let them be."""
        samples = int(prepare.max_seconds * SAMPLE_RATE)
        counts = np.array([[code_count(samples), prepare.max_text_tokens]])
        source = f"as long as params.yaml allows: {prepare.max_seconds:g} s and {prepare.max_text_tokens} text tokens"
        return cls(counts.repeat(ALLOWED, axis=0), np.full(ALLOWED, samples), source)

    def first(self, count: int, most_tokens: int | None = None) -> "Clips":
        """The longest `count`, cut to at most so many text tokens and codes each."""
        counts, samples = self.counts[:count], self.samples[:count]
        if most_tokens is None:
            return Clips(counts, samples, self.source)
        share = np.minimum(1, most_tokens / counts.sum(axis=1))
        return Clips(
            np.maximum(1, counts * share[:, None]).astype(np.int64),
            np.maximum(1, samples * share).astype(np.int64),
            self.source,
        )

    @property
    def rows(self) -> int:
        """Of the network, about: those of the codes' and the text's STARTs and STOPs are not in it."""
        return int(self.counts.sum()) + LATENTS * len(self.counts)

    def batch(self) -> Batch:
        """All of them, of no content, with the longest voice prompts that they can have."""
        codes, text = self.counts.T
        prompt = int(min(CONDITIONING_MAX, self.samples.min()))
        return Batch(
            text=np.zeros(text.sum(), np.int32),
            text_lengths=text,
            codes=np.zeros(codes.sum(), np.int16),
            code_lengths=codes,
            conditioning=np.zeros((len(codes), prompt), np.float32),
            conditioning_spans=np.array([[0, prompt]] * len(codes)),
        )


@dataclass(frozen=True, eq=False)
class Longest:
    """The longest clips of either split.

    Attributes:
        outdated: why they are not those in prepared/, though clips lie there; as `outdated` has it.
        are_prepared: whether they are.
    """

    train: Clips
    eval: Clips
    outdated: str | None
    are_prepared: bool

    @classmethod
    def of(cls, workspace: Workspace, params: Params) -> Self:
        """Those that lie in prepared/, where they are of these parameters; else what the parameters allow.

        Raises:
            UserError: what `prepare` left is damaged, or DVC's files are.
        """
        why, allowed = outdated(workspace, params), Clips.allowed(params.prepare)
        if why or not (workspace.prepared / "train.jsonl").exists():
            return cls(allowed, allowed, why, False)
        train, evaluated = (Clips.prepared(FeatureReader(workspace.prepared, split), split) for split in SPLITS)
        return cls(train, evaluated, None, True)


def longest_batch(clips: Clips, size: int, most_tokens: int | None) -> Batch:
    """What no batch of any epoch can exceed: of up to `size` of these clips, and of so many tokens.

    Args:
        most_tokens: text tokens and audio codes; a clip that has more is a batch of its own.
    """
    if most_tokens is None:
        return clips.first(size).batch()
    most = min(size, len(clips.counts), most_tokens // 2)  # each has a token of either kind at least
    choices = [clips.first(1), *(clips.first(count, most_tokens // count) for count in range(2, most + 1))]
    return max(choices, key=lambda choice: choice.rows).batch()
