"""Mel CE and Text CE: cross-entropies in nats per token, weighted by tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.constants import MEL_WEIGHT, TEXT_WEIGHT
from xtts_finetune.data.batches import Batch, Indices, collate, eval_groups, voice_prompts
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model.forward import Settings, hidden_states
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training.packing import IGNORED, MicroBatch, SpecialTokens, Targets, pack

EVAL_BATCH = 8  # clips; the result does not depend on it


@dataclass(frozen=True)
class TokenSums:
    """Summed cross-entropies in nats, and the numbers of tokens they were summed over."""

    mel: float = 0.0
    mel_tokens: int = 0
    text: float = 0.0
    text_tokens: int = 0

    def __add__(self, other: "TokenSums") -> "TokenSums":
        return TokenSums(
            self.mel + other.mel,
            self.mel_tokens + other.mel_tokens,
            self.text + other.text,
            self.text_tokens + other.text_tokens,
        )

    @property
    def mel_ce(self) -> float:
        return self.mel / self.mel_tokens

    @property
    def text_ce(self) -> float:
        return self.text / self.text_tokens

    @property
    def loss(self) -> float:
        """As optimised: 0.01 × Text CE + 1.0 × Mel CE."""
        return TEXT_WEIGHT * self.text_ce + MEL_WEIGHT * self.mel_ce

    def metrics(self, split: str) -> dict[str, float]:
        """Under their names everywhere: `<split>/mel_ce`, `<split>/text_ce`, `<split>/loss`."""
        return {f"{split}/mel_ce": self.mel_ce, f"{split}/text_ce": self.text_ce, f"{split}/loss": self.loss}

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def losses(gpt: GPT, conditioning_mel: TorchMelSpectrogram, micro: MicroBatch, settings: Settings) -> Tensor:
    """(2,) float32: Mel CE and Text CE summed over the tokens of a micro-batch, on its device.

    Without a mask, the first / mel_tokens equals the loss_mel_ce of Coqui's GPTTrainer.eval_step.
    """
    device = micro.weights.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        prompt = conditioning_mel(micro.packed.conditioning)
    text, codes = hidden_states(gpt, prompt, micro.packed, settings)
    mel = _summed(gpt.mel_head(codes), micro.code_targets)
    return torch.stack([mel, _summed(gpt.text_head(text), micro.text_targets)])


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


def eval_batches(
    reader: FeatureReader, label: str | None, leave: bool, share: slice = slice(None), chosen: Indices | None = None
) -> Iterator[Batch]:
    """Clips of a split, like lengths together.

    Args:
        label: of a progress bar; None: there is none.
        leave: whether the bar's last state stays.
        share: which of the batches.
        chosen: which clips; None: all.
    """
    groups = eval_groups(reader, EVAL_BATCH, chosen)[share]
    for group in Bar(groups, desc=label, unit="batch", leave=leave, disable=label is None):
        yield collate(reader, group, voice_prompts(reader.samples[group], None))


@torch.no_grad()
def evaluate(gpt: GPT, conditioning_mel: TorchMelSpectrogram, batches: Iterable[Batch]) -> TokenSums:
    """Mel CE and Text CE of the whole of `batches`, without dropout and without a mask, in fp32.

    The device is waited for once, at the end: batches come from pinned memory.
    """
    was_training, device, special = gpt.training, gpt.mel_head.weight.device, SpecialTokens.of(gpt)
    gpt.eval()
    sums, targets = torch.zeros(2, dtype=torch.float64, device=device), Targets()
    for batch in batches:
        micro = pack(batch, special, mask_prompt=False, padding_free=False).ready_for(device)
        sums += losses(gpt, conditioning_mel, micro.to(device), Settings())
        targets += micro.targets
    gpt.train(was_training)
    mel, text = sums.tolist()
    return TokenSums(mel, targets.mel, text, targets.text)
