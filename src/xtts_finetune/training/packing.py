"""From a batch of clips to what the network reads and is to predict."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xtts_finetune.core.constants import CODE_STRIDE, MEL_WEIGHT, TEXT_WEIGHT
from xtts_finetune.data.batches import Batch
from xtts_finetune.model.forward import LATENTS, Packed
from xtts_finetune.model.xtts import GPT

MEL_STOPS = 4  # stop tokens after a clip's codes that count as targets, as GPT.forward appends them
TEXT_STOPS = 1
IGNORED = -1  # target index that counts for nothing
# What the rows of a padding-free batch are rounded up to, so that a few shapes come again and again.
TEXT_ROWS, CODE_ROWS, LONGEST = 64, 128, 128

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SpecialTokens:
    """Where text and audio codes start and end."""

    start_text: int
    stop_text: int
    start_audio: int
    stop_audio: int

    @classmethod
    def of(cls, gpt: GPT) -> Self:
        return cls(gpt.start_text_token, gpt.stop_text_token, gpt.start_audio_token, gpt.stop_audio_token)


@dataclass(frozen=True)
class Targets:
    """How many tokens are to be predicted, and count."""

    mel: int = 0
    text: int = 0

    def __add__(self, other: "Targets") -> "Targets":
        return Targets(self.mel + other.mel, self.text + other.text)

    @classmethod
    def of(cls, code_lengths: Rows, text_lengths: Rows, prompts: Rows, mask_prompt: bool) -> Self:
        """Of clips: (clips,) codes and tokens each, and (clips, 2) where their voice prompts start and end."""
        mel = int(code_lengths.sum()) + MEL_STOPS * len(code_lengths)
        start, end = (prompts // CODE_STRIDE).sum(axis=0).tolist()
        masked = end - start if mask_prompt else 0
        return cls(mel - masked, int(text_lengths.sum()) + TEXT_STOPS * len(text_lengths))


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """A batch as the network reads it, and what it is to predict.

    Attributes:
        text_targets: (text rows,) int64, IGNORED where a row only fills up.
        code_targets: (code rows,) int64, also IGNORED where `mask_prompt` leaves a code out.
        weights: (2,) float32, of the summed Mel CE and Text CE in the loss of a step.
        targets: its own.
    """

    packed: Packed
    text_targets: Tensor
    code_targets: Tensor
    weights: Tensor
    targets: Targets

    def tensors(self) -> dict[str, Tensor]:
        own = {"text_targets": self.text_targets, "code_targets": self.code_targets, "weights": self.weights}
        return {**self.packed.tensors(), **own}

    def to(self, device: torch.device) -> "MicroBatch":
        """On `device`; from pinned memory without waiting."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def ready_for(self, device: torch.device) -> "MicroBatch":
        """In pinned memory where `device` is a GPU, which copies from there while the host goes on."""
        return self._mapped(lambda tensor: tensor.pin_memory()) if device.type == "cuda" else self

    def silenced(self) -> "MicroBatch":
        """With nothing to predict: its losses and gradients are 0."""
        text, codes = (torch.full_like(rows, IGNORED) for rows in (self.text_targets, self.code_targets))
        return replace(self, text_targets=text, code_targets=codes, targets=Targets())

    def _mapped(self, function: Any) -> "MicroBatch":
        tensors: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        own = {name: tensors.pop(name) for name in ("text_targets", "code_targets", "weights")}
        return replace(self, packed=replace(self.packed, **tensors), **own)


def pack(
    batch: Batch, special: SpecialTokens, mask_prompt: bool, padding_free: bool, step: Targets | None = None
) -> MicroBatch:
    """Lay a batch out.

    The mask covers every clip, in code units; Coqui's covers the last one alone, in the wrong unit (gpt.py, end of
    GPT.forward).

    Args:
        mask_prompt: leave out the codes of the clip's own conditioning slice.
        padding_free: clips end to end, all counts rounded up by a last sequence that nobody reads, instead of clips
            padded to the longest.
        step: all targets of its step, over which the loss is the mean; None: a step of this batch alone.
    """
    targets = Targets.of(batch.code_lengths, batch.text_lengths, batch.conditioning_spans, mask_prompt)
    text, text_targets = _text(batch, special)
    codes, code_targets = _codes(batch, special, mask_prompt)
    counts = np.array([[LATENTS, len(t), len(c)] for t, c in zip(text, codes, strict=True)])
    filling = -counts.sum(axis=0)[1:] % [TEXT_ROWS, CODE_ROWS] if padding_free else np.zeros(2, np.int64)
    order, inverse, bounds, longest = _layout(counts, filling if padding_free else None)
    packed = Packed(
        conditioning=torch.from_numpy(batch.conditioning),
        text=_filled(text, filling[0], 0),
        text_positions=_filled([np.arange(len(rows)) for rows in text], filling[0], 0),
        codes=_filled(codes, filling[1], 0),
        code_positions=_filled([np.arange(len(rows)) for rows in codes], filling[1], 0),
        order=torch.from_numpy(order),
        inverse=torch.from_numpy(inverse),
        bounds=None if bounds is None else torch.from_numpy(bounds),
        longest=longest,
    )
    of_step = step or targets
    return MicroBatch(
        packed=packed,
        text_targets=_filled(text_targets, filling[0], IGNORED),
        code_targets=_filled(code_targets, filling[1], IGNORED),
        weights=torch.tensor([MEL_WEIGHT / of_step.mel, TEXT_WEIGHT / of_step.text]),
        targets=targets,
    )


def _text(batch: Batch, special: SpecialTokens) -> tuple[list[Rows], list[Rows]]:
    """Inputs and targets of every clip: START and its tokens; its tokens and STOP."""
    clips = np.split(batch.text.astype(np.int64), batch.text_lengths.cumsum()[:-1])
    inputs = [np.concatenate([[special.start_text], tokens]) for tokens in clips]
    targets = [np.concatenate([tokens, [special.stop_text] * TEXT_STOPS]) for tokens in clips]
    return inputs, targets


def _codes(batch: Batch, special: SpecialTokens, mask_prompt: bool) -> tuple[list[Rows], list[Rows]]:
    """Inputs and targets of every clip: START, its codes and three times STOP; its codes and four times STOP."""
    stops = [special.stop_audio] * MEL_STOPS
    inputs, targets = list[Rows](), list[Rows]()
    clips = np.split(batch.codes.astype(np.int64), batch.code_lengths.cumsum()[:-1])
    for codes, span in zip(clips, batch.conditioning_spans // CODE_STRIDE, strict=True):
        target = np.concatenate([codes, stops])
        inputs.append(np.concatenate([[special.start_audio], target[:-1]]))
        if mask_prompt:
            target[span[0] : span[1]] = IGNORED
        targets.append(target)
    return inputs, targets


def _layout(counts: Rows, filling: Rows | None) -> tuple[Rows, Rows, npt.NDArray[np.int32] | None, int]:
    """Order, inverse, bounds and longest of `Packed`.

    Args:
        counts: (clips, 3) rows of latents, text and codes.
        filling: (2,) further rows of text and codes, of no clip; None: clips padded to the longest.
    """
    lengths, kinds = counts.sum(axis=1), counts.sum(axis=0)
    longest = int(lengths.max())
    starts = np.arange(len(counts)) * longest if filling is None else lengths.cumsum() - lengths
    total = len(counts) * longest if filling is None else int(kinds.sum() + filling.sum())
    inverse = np.concatenate([_places(counts, starts, kind, filling) for kind in range(3)])
    if filling is not None:  # the last sequence: what is left over
        inverse[inverse < 0] = np.arange(int(lengths.sum()), total)
    order = np.zeros(total, np.int64)
    order[inverse] = np.arange(len(inverse))
    if filling is None:
        return order, inverse, None, longest
    bounds = np.concatenate([[0], lengths.cumsum(), [total]]).astype(np.int32)
    longest = max(longest, total - int(bounds[-2]))
    return order, inverse, bounds, longest + -longest % LONGEST


def _places(counts: Rows, starts: Rows, kind: int, filling: Rows | None) -> Rows:
    """Where the rows of one kind lie among the sequences'; −1 those of no clip."""
    first = starts + counts[:, :kind].sum(axis=1)
    places = [np.arange(at, at + count) for at, count in zip(first, counts[:, kind], strict=True)]
    further = 0 if filling is None or kind == 0 else int(filling[kind - 1])
    return np.concatenate([*places, np.full(further, -1)])


def _filled(rows: list[Rows], further: int, value: int) -> Tensor:
    return torch.from_numpy(np.concatenate([*rows, np.full(further, value, np.int64)]))
