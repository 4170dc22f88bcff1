"""bf16 copies of the weights that matrix products read: made at once, and their gradients gathered at once.

Autocast alone casts every weight and every gradient in a kernel of its own, which is most of the launches of a step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class HalfWeights:
    """The weights and biases of all linear layers and convolutions of a model, in bf16; the model's own stay fp32."""

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | Conv1D)]
        self._places = [(layer, name) for layer in layers for name, _ in layer.named_parameters(recurse=False)]
        self._masters = [layer.get_parameter(name) for layer, name in self._places]
        self._copies = [nn.Parameter(m.detach().bfloat16(), requires_grad=m.requires_grad) for m in self._masters]
        pairs = zip(self._masters, self._copies, strict=True)
        self._trained = [(master, copy) for master, copy in pairs if master.requires_grad]
        self._is_new = True
        own = {id(master) for master in self._masters}
        self._others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model reads the copies meanwhile; for forward and backward alike, which may compute again."""
        self._put(self._copies)
        try:
            yield
        finally:
            self._put(self._masters)

    def _put(self, parameters: list[nn.Parameter]) -> None:
        for (layer, name), parameter in zip(self._places, parameters, strict=True):
            layer._parameters[name] = parameter

    @torch.no_grad()
    def refresh(self) -> None:
        """Before the first micro-batch of a step: what the weights are now, and no gradient yet.

        Frozen ones are copied once, by now: a process that follows has them from the leader since it began.
        """
        pairs = zip(self._masters, self._copies, strict=True) if self._is_new else self._trained
        masters, copies = list[Tensor](), list[Tensor]()
        for master, copy in pairs:
            masters.append(master)
            copies.append(copy)
        _copy(copies, masters)
        self._is_new = False
        gradients = [parameter.grad for parameter in self._others if parameter.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)

    @torch.no_grad()
    def gather(self, is_first: bool) -> None:
        """Move the gradients of a micro-batch to the model's own weights: instead of what is there, or added to it."""
        ours, theirs = list[Tensor](), list[Tensor]()
        for master, copy in self._trained:
            assert copy.grad is not None, "every trained weight takes part in every micro-batch"
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            ours.append(master.grad)
            theirs.append(copy.grad)
            copy.grad = None
        if is_first:
            _copy(ours, theirs)
        elif ours:
            torch._foreach_add_(ours, theirs)


def _copy(into: list[Tensor], source: list[Tensor]) -> None:
    """Of none there is nothing to do, which torch refuses: where embeddings or norms alone are trained."""
    if into:
        torch._foreach_copy_(into, source)
