"""The tensors of a resumable state: weights and optimiser, as safetensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xtts_finetune.store.checkpoints import WEIGHTS
from xtts_finetune.training.xtts import GPT

OPTIMIZER = "optimizer.safetensors"


def write_tensors(folder: Path, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Write model.safetensors and optimizer.safetensors (keys `<parameter's index>.<name>`, e.g. 7.exp_avg)."""
    save_file(gpt.state_dict(), folder / WEIGHTS)
    state = optimizer.state_dict()["state"]
    save_file(
        {f"{index}.{name}": value for index, of in state.items() for name, value in of.items()}, folder / OPTIMIZER
    )


def load_tensors(folder: Path, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Put what `write_tensors` wrote back, bit for bit."""
    gpt.load_state_dict(load_file(folder / WEIGHTS))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / OPTIMIZER).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
