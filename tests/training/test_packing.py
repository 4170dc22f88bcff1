"""The two layouts of a batch are the same batch."""

from typing import Any

import pytest
import torch
from making.batches import random_batch
from torch import Tensor
from torch.nn import functional as F

from xtts_finetune.model import forward
from xtts_finetune.model.forward import Settings
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training import loss
from xtts_finetune.training.packing import SpecialTokens, pack


def by_sequence(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, *limits: Any, window_size: Any) -> Tensor:
    """What torch's variable-length attention does, which only a GPU has."""
    assert window_size == (-1, 0), "causal"
    mixed = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert end - start <= limits[-1], "none is longer than the longest"
        if end > start:
            own = (rows[start:end].transpose(0, 1)[None] for rows in (query, key, value))
            mixed.append(F.scaled_dot_product_attention(*own, is_causal=True)[0].transpose(0, 1))
    return torch.cat(mixed)


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_padding_free_is_the_padded(
    mini_gpt: GPT,
    conditioning_mel: TorchMelSpectrogram,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    mask_prompt: bool,
) -> None:
    monkeypatch.setattr(forward, "varlen_attn", by_sequence)
    mini_gpt.eval()
    measured = []
    for padding_free in (False, True):
        micro = pack(random_batch(count), SpecialTokens.of(mini_gpt), mask_prompt, padding_free)
        sums = loss.losses(mini_gpt, conditioning_mel, micro, Settings())
        (sums * micro.weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in mini_gpt.parameters() if p.grad is not None])
        mini_gpt.zero_grad()
        measured.append((sums.detach(), gradient, micro.targets.mel, micro.targets.text))
    (sums, gradient, *tokens), (free_sums, free_gradient, *free_tokens) = measured
    assert tokens == free_tokens
    torch.testing.assert_close(free_sums, sums, rtol=1e-5, atol=0)
    assert (free_gradient - gradient).norm() < 1e-5 * gradient.norm()
