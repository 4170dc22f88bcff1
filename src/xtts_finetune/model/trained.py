"""What of the network is trained: all of it, some parts, or adapters (LoRA) beside frozen weights.

A weights file holds what was trained; where that is not all, `header.py` says how it tells. Adapters are peft's (Hu et
al. 2021; peft/tuners/lora/layer.py).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.phase_params import Trained
from xtts_finetune.core.quiet import quiet_bitsandbytes
from xtts_finetune.model.xtts import GPT

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ALL = Trained(adapters=None, parts=None)


def freeze(gpt: GPT, trained: Trained, dropout: float, seed: int) -> None:
    """Let only what is `trained` have gradients, and put adapters in.

    Args:
        dropout: of adapters.
        seed: their first weights are drawn with it; they change nothing before the first step.

    Raises:
        UserError: the network lacks one of the parts.
    """
    lacking = [
        part for part in trained.parts or () if not any(name.startswith(f"{part}.") for name in gpt.state_dict())
    ]
    if lacking:
        what = f"this base, of {gpt.layers} layers, has no {', '.join(lacking)}"
        raise UserError("nothing to train", [Problem("params.yaml", what, "name parts that it has")])
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_(trained.takes(name))
    if trained.adapters is not None:
        _put_adapters_in(gpt, trained, dropout, seed)


def _put_adapters_in(gpt: GPT, trained: Trained, dropout: float, seed: int) -> None:
    quiet_bitsandbytes()  # which peft imports
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    adapters = trained.adapters
    assert adapters is not None
    in_full = [parameter for parameter in gpt.parameters() if parameter.requires_grad]
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=dropout,
        target_modules=[*adapters.layers],
        fan_in_fan_out=True,  # GPT-2's Conv1D has its weight that way round
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(config, gpt.gpt)
    for parameter in in_full:  # peft has frozen all but its own
        parameter.requires_grad_(True)


def trained_state(gpt: GPT) -> dict[str, Tensor]:
    """What training changes, by name: all of the network's tensors but frozen ones."""
    frozen = {name for name, parameter in gpt.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in gpt.state_dict().items() if name not in frozen}


@torch.no_grad()
def merge(gpt: GPT) -> None:
    """Add adapters to the weights beside which they stand, and take them out: a network as Coqui built it."""
    has_adapters = any(".lora_A." in name for name, _ in gpt.named_parameters())
    for name, layer in list(_adapted(gpt)) if has_adapters else ():  # else peft is not loaded
        layer.merge()
        parent, _, own_name = name.rpartition(".")
        setattr(gpt.get_submodule(parent), own_name, layer.get_base_layer())
    for parameter in gpt.parameters():
        parameter.requires_grad_(True)


def _adapted(gpt: GPT) -> "Iterator[tuple[str, LoraLayer]]":
    from peft.tuners.lora import LoraLayer

    for name, module in gpt.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module
