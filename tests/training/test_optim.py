"""Learning rates, and what weight decay touches."""

import subprocess
import sys

import pytest
import torch
from making.params import TINY_PHASE, make_params
from workbench import make_run

from xtts_finetune.core.layout import Workspace
from xtts_finetune.training.optim import build_optimizer, learning_rate


def rates(steps: int, **changes: object) -> list[float]:
    phase = TINY_PHASE.model_copy(update={"lr": 1.0, **changes})
    return [learning_rate(phase, step, steps) for step in range(steps)]


def test_warmup_then_constant() -> None:
    assert rates(6, warmup_steps=4, schedule="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rates(3, warmup_steps=0, schedule="constant") == [1.0, 1.0, 1.0]


def test_cosine_falls_to_nothing() -> None:
    assert rates(4, warmup_steps=0, schedule="cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-5)
    assert rates(6, warmup_steps=2, schedule="cosine") == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447], abs=1e-5)


def test_more_warmup_than_steps() -> None:
    assert rates(2, warmup_steps=10, schedule="cosine") == pytest.approx([0.1, 0.2])
    assert rates(1, warmup_steps=1, schedule="cosine") == [1.0]


@pytest.mark.parametrize("optim", ["adamw", "adamw8bit"])
def test_weight_decay_shrinks_weights_alone(workspace: Workspace, optim: str) -> None:
    gpt = make_run(workspace, make_params()).gpt
    optimizer = build_optimizer(gpt, TINY_PHASE.model_copy(update={"optim": optim, "lr": 0.1, "weight_decay": 0.5}))
    for parameter in gpt.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = {name: value.flatten()[0].item() for name, value in gpt.named_parameters()}
    shrunk = {name for name, value in values.items() if value == pytest.approx(1 - 0.1 * 0.5)}
    kept = {name for name, value in values.items() if value == 1}
    assert shrunk | kept == values.keys()
    assert {"mel_head.weight", "text_head.weight", "gpt.h.0.attn.c_attn.weight", "gpt.h.0.mlp.c_fc.weight"} <= shrunk
    assert not [name for name in shrunk if name.endswith("bias") or "embedding" in name]
    assert not [name for name in shrunk if ".ln_" in name or "norm" in name]
    exempt = ("bias", "embedding", "norm", ".ln_")
    assert not [name for name in kept if not any(part in name for part in exempt)]


def test_adamw8bit_goes_nearly_where_adamw_goes() -> None:
    """With the same rate and betas, which matter where gradients fall off as they do here."""

    def way(optim: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(256, 256)
        start = model.weight.detach().clone()
        optimizer = build_optimizer(model, TINY_PHASE.model_copy(update={"optim": optim}))
        for step in range(1, 41):
            model.weight.grad = start / step**2
            optimizer.step()
        return model.weight.detach() - start

    off = (way("adamw8bit") - way("adamw")).norm() / way("adamw").norm()
    assert 0 < off < 0.06  # 0.10 with a rate of 1.1 ×, or with the usual second beta of 0.999


@pytest.mark.slow
def test_adamw8bit_loads_without_a_word() -> None:
    program = """
import torch
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.training.optim import build_optimizer
phase = PhaseParams.model_construct(optim="adamw8bit", lr=1e-3, weight_decay=0.0)
print(type(build_optimizer(torch.nn.Linear(2, 2), phase)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("AdamW8bit\n", "")
