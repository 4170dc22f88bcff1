"""What a step asks of the device, operator by operator, without one: nothing that CUDA refuses, nothing that waits."""

from collections import Counter
from typing import Any

import pytest
import torch
from making.batches import random_batch
from making.params import TINY_PHASE
from operators import REFUSED, VIEWS, WAITING, traced

from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training import loss
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.packing import SpecialTokens, pack
from xtts_finetune.training.step import Step
from xtts_finetune.training.team import Team

TO_THE_HOST = ("tolist", "cpu", "numpy", "item", "__bool__", "__float__", "__int__")  # seen by no operator on a CPU
OPERATORS = 500  # of a step of `mini` that launch something


def step_calls(gpt: GPT, conditioning_mel: TorchMelSpectrogram, count: int, **changes: Any) -> Counter[str]:
    """Of the second step: in the first the optimiser makes its moments."""
    phase = TINY_PHASE.model_copy(update=changes)
    step = Step(gpt, conditioning_mel, build_optimizer(gpt, phase), phase, Team.alone())
    micro = pack(random_batch(count), SpecialTokens.of(gpt), phase.mask_prompt, padding_free=False)
    step([micro], 1e-3, 0, lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        for name in TO_THE_HOST:
            patch.setattr(torch.Tensor, name, waits)
        return traced(lambda: step([micro], 1e-3, 1, lambda: None))


def waits(*_: Any) -> Any:
    raise AssertionError("this waits for the device")


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16"}, {"attention_dropout": 0.1}, {"gradient_checkpointing": True}, {"mask_prompt": True}],
    ids=str,
)
def test_a_step(mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram, changes: dict[str, Any]) -> None:
    calls = step_calls(mini_gpt, conditioning_mel, 1 if changes else 3, **changes)
    launched = Counter({name: count for name, count in calls.items() if name not in VIEWS})
    print(f"{calls.total()} operators, {launched.total()} launch something: {launched.most_common(12)}")
    assert calls.keys() & REFUSED == set()
    assert calls.keys() & WAITING == set()
    if not changes:
        assert launched.total() <= OPERATORS
        assert step_calls(mini_gpt, conditioning_mel, 8) == calls


def test_an_evaluation(mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram) -> None:
    calls = traced(lambda: loss.evaluate(mini_gpt, conditioning_mel, [random_batch(3), random_batch(8)]))
    assert calls.keys() & REFUSED == set()
    assert calls.keys() & WAITING == set()
