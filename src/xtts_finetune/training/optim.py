"""The optimiser and its learning rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.core.quiet import quiet_bitsandbytes

BETAS = (0.9, 0.96)  # recipes/ljspeech/xtts_v2/train_gpt_xtts.py
EPS = 1e-8
_MOMENTS = ({"step", "exp_avg", "exp_avg_sq"},)
_MOMENTS_8BIT = (
    {"step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"},
    {"step", "state1", "state2"},  # of tensors below 4096 elements
)


def build_optimizer(model: nn.Module, phase: PhaseParams) -> torch.optim.Optimizer:
    """AdamW with weight decay on weights alone: not on biases, norms and embeddings (GPTTrainer.get_optimizer)."""
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    exempt = {id(p) for p in embeddings} | {id(p) for p in model.parameters() if p.ndim < 2}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": phase.weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    if phase.optim == "adamw8bit":
        return _adamw8bit(groups, phase.lr)
    on_gpu = parameters[0].is_cuda  # there the rate is a tensor, too, so that a recorded step reads it
    lr = torch.tensor(phase.lr, device=parameters[0].device) if on_gpu else phase.lr
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True, capturable=on_gpu)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def update(optimizer: torch.optim.Optimizer, is_finite: Tensor, excess: Tensor) -> None:
    """Take the optimiser's step, unless the gradient is not finite.

    Torch's AdamW is told on the device and does not wait, as a GradScaler tells it; that of bitsandbytes has to be
    told by the host.

    Args:
        is_finite: bool scalar.
        excess: scalar, by how much the gradient's norm is above the most it may be; it is divided by what is above 1.
    """
    scale = excess.clamp(min=1)
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.grad_scale, optimizer.found_inf = scale, 1 - is_finite.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif is_finite:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_div_(gradients, scale)
        optimizer.step()


def _adamw8bit(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """AdamW whose moments take a byte each, scaled in blocks of 256; those of tensors below 4096 elements stay fp32."""
    quiet_bitsandbytes()
    from bitsandbytes.optim import AdamW8bit  # takes seconds

    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=lr, betas=BETAS, eps=EPS)
    return optimizer


def kept_per_parameter(optimizer: object) -> tuple[set[str], ...]:
    """The names of what an optimiser keeps of a parameter from its first step on: one of these sets."""
    return _MOMENTS if isinstance(optimizer, torch.optim.AdamW) else _MOMENTS_8BIT


def learning_rate(phase: PhaseParams, step: int, steps: int) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`: linear warmup, then constant or a cosine to zero."""
    if step < phase.warmup_steps:
        return phase.lr * (step + 1) / phase.warmup_steps
    if phase.schedule == "constant":
        return phase.lr
    progress = (step - phase.warmup_steps) / max(1, steps - phase.warmup_steps)
    return phase.lr * 0.5 * (1 + math.cos(math.pi * progress))
