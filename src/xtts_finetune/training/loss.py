"""Mel CE and Text CE: cross-entropies in nats per token, weighted by tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from xtts_finetune.core.constants import CODE_STRIDE, MEL_WEIGHT, TEXT_WEIGHT
from xtts_finetune.data.batches import Batch, collate
from xtts_finetune.data.features import FeatureReader, code_count
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram

MEL_STOPS = 4  # stop tokens that GPT.forward appends to a clip's codes and that count as targets
TEXT_STOPS = 1
IGNORED = -1  # target index that counts for nothing
EVAL_BATCH = 8  # clips; the result does not depend on it


@dataclass
class TokenSums:
    """Summed cross-entropies in nats, and the numbers of tokens they were summed over."""

    mel: float = 0.0
    mel_tokens: int = 0
    text: float = 0.0
    text_tokens: int = 0

    def add(self, losses: "Losses") -> None:
        self.mel += losses.mel.item()
        self.mel_tokens += losses.mel_tokens
        self.text += losses.text.item()
        self.text_tokens += losses.text_tokens

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


@dataclass(frozen=True, eq=False)
class Targets:
    """What a batch is to predict, and how much of it counts."""

    mel: Tensor  # (batch, width) as GPT.forward builds them: a clip's codes, four stops, then IGNORED
    mel_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class Losses:
    """Of one batch: cross-entropies summed over its tokens (scalars with gradient), and the token counts."""

    mel: Tensor
    mel_tokens: int
    text: Tensor
    text_tokens: int


def targets_of(batch: Batch, stop_token: int, mask_prompt: bool) -> Targets:
    """The targets of a batch.

    The mask covers every row, in code units; Coqui's covers the last row alone, in the wrong unit (gpt.py, end of
    GPT.forward).

    Args:
        mask_prompt: leave out the codes of the clip's own conditioning slice.
    """
    counts = torch.from_numpy(code_count(batch.samples))[:, None]
    width = int(counts.max()) + MEL_STOPS + 1
    position = torch.arange(width)[None]
    codes = F.pad(torch.from_numpy(batch.codes), (0, max(0, width - batch.codes.shape[1])))[:, :width]
    mel = torch.where(position < counts, codes, stop_token)
    mel = torch.where(position < counts + MEL_STOPS, mel, IGNORED)
    if mask_prompt:
        spans = torch.from_numpy(batch.conditioning_spans) // CODE_STRIDE
        mel = torch.where((position >= spans[:, :1]) & (position < spans[:, 1:]), IGNORED, mel)
    return Targets(mel, int((mel != IGNORED).sum()), int((batch.text_lengths + TEXT_STOPS).sum()))


def losses(gpt: GPT, conditioning_mel: TorchMelSpectrogram, batch: Batch, targets: Targets) -> Losses:
    """Cross-entropies of a batch, on the model's device.

    Without a mask, mel / mel_tokens equals the loss_mel_ce of Coqui's GPTTrainer.eval_step.
    """
    device = gpt.mel_head.weight.device
    with torch.no_grad():
        prompt = conditioning_mel(torch.from_numpy(batch.conditioning).to(device))
    text_mean, _, logits = gpt(
        torch.from_numpy(batch.text).to(device),
        torch.from_numpy(batch.text_lengths).to(device),
        torch.from_numpy(batch.codes).to(device),
        torch.from_numpy(batch.samples).to(device),
        cond_mels=prompt[:, None],
    )
    mel = F.cross_entropy(logits.float(), targets.mel.to(device), ignore_index=IGNORED, reduction="sum")
    return Losses(mel, targets.mel_tokens, text_mean.float() * targets.text_tokens, targets.text_tokens)


def eval_batches(reader: FeatureReader, label: str, leave: bool) -> Iterator[Batch]:
    """All clips of the eval split, like lengths together, with a progress bar that may `leave` its last state."""
    order = reader.samples.argsort(kind="stable")
    for at in tqdm(range(0, len(order), EVAL_BATCH), desc=label, unit="batch", leave=leave):
        yield collate(reader, order[at : at + EVAL_BATCH], None)


@torch.no_grad()
def evaluate(gpt: GPT, conditioning_mel: TorchMelSpectrogram, batches: Iterable[Batch]) -> TokenSums:
    """Mel CE and Text CE of the whole of `batches`, without dropout and without a mask."""
    was_training = gpt.training
    gpt.eval()
    sums = TokenSums()
    for batch in batches:
        targets = targets_of(batch, gpt.stop_audio_token, mask_prompt=False)
        sums.add(losses(gpt, conditioning_mel, batch, targets))
    gpt.train(was_training)
    return sums
