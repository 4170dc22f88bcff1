"""How sure a Mel CE or Text CE is: the losses of single clips, and what other clips of the same kind would give."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from xtts_finetune.data.batches import Batch
from xtts_finetune.model.forward import Settings, hidden_states
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.packing import MEL_STOPS, TEXT_STOPS, SpecialTokens, pack

RESAMPLES = 10_000
CONFIDENCE = 0.95
_SEED = 0

Interval = tuple[float, float]
Sums = npt.NDArray[np.float64]


@torch.no_grad()
def evaluate_clips(gpt: GPT, conditioning_mel: TorchMelSpectrogram, batches: Iterable[Batch]) -> list[TokenSums]:
    """As `loss.evaluate`, of each clip: all together they are what that gives, but for rounding."""
    was_training, device, special = gpt.training, gpt.mel_head.weight.device, SpecialTokens.of(gpt)
    gpt.eval()
    clips = list[TokenSums]()
    for batch in batches:
        micro = pack(batch, special, mask_prompt=False, padding_free=False).to(device)
        with torch.autocast(device.type, enabled=False):
            prompt = conditioning_mel(micro.packed.conditioning)
        text, codes = hidden_states(gpt, prompt, micro.packed, Settings())
        counts = (batch.code_lengths + MEL_STOPS, batch.text_lengths + TEXT_STOPS)
        mel_sums = _by_clip(gpt.mel_head(codes), micro.code_targets, counts[0])
        text_sums = _by_clip(gpt.text_head(text), micro.text_targets, counts[1])
        sums = zip(mel_sums, counts[0].tolist(), text_sums, counts[1].tolist(), strict=True)
        clips += [TokenSums(*each) for each in sums]
    gpt.train(was_training)
    return clips


def _by_clip(logits: Tensor, targets: Tensor, counts: npt.NDArray[np.int64]) -> list[float]:
    """Cross-entropies summed over the rows of each clip, which lie one after the other."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
    return [float(rows.sum()) for rows in losses.split(counts.tolist())]


def intervals(clips: list[TokenSums]) -> dict[str, Interval | None]:
    """Where Mel CE and Text CE of the model lie with 95 % confidence, had other clips of the same kind been held back.

    Bias-corrected and accelerated bootstrap over clips (Efron 1987), each of them with all its tokens: those of one
    clip are no independent draws. The same sums always give the same bounds.

    Returns:
        Bounds of `mel_ce` and `text_ce` in nats per token; None where the clips say nothing of others.
    """
    mel = [(clip.mel, clip.mel_tokens) for clip in clips]
    text = [(clip.text, clip.text_tokens) for clip in clips]
    return {"mel_ce": _interval(np.array(mel, float)), "text_ce": _interval(np.array(text, float))}


def _interval(sums: Sums) -> Interval | None:
    """Of a mean over tokens; None where there is one clip alone, or all are alike.

    Args:
        sums: (clips, 2) summed losses and tokens of each clip.
    """
    if np.ptp(sums[:, 0] / sums[:, 1]) == 0:
        return None
    found = stats.bootstrap(
        (sums[:, 0], sums[:, 1]),
        _mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _mean(losses: Sums, tokens: Sums, axis: int = -1) -> Sums:
    mean: Sums = losses.sum(axis=axis) / tokens.sum(axis=axis)
    return mean
