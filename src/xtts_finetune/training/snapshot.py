"""The tensors of a resumable state: weights and optimiser, as safetensors."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.layout import OPTIMIZER, WEIGHTS
from xtts_finetune.model.xtts import GPT


class Snapshot:
    """Weights and optimiser state of one moment, copied to the host: they can be written while training goes on.

    Every moment is copied into the same memory, 5.3 GB for XTTS v2 with AdamW; pinned, where it comes from a GPU.

    Attributes:
        weights: by their names in the model.
        state: of the optimiser, by `<parameter's index>.<name>`, e.g. 7.exp_avg; empty before its first step.
    """

    def __init__(self, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
        self.weights: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}
        self._gpt = gpt
        self._optimizer = optimizer

    def refresh(self) -> None:
        """Copy what model and optimiser hold now. Not while it is written on another thread."""
        self.weights = _on_host(self._gpt.state_dict(), self.weights)
        self.state = _on_host(dict(_optimizer_tensors(self._optimizer)), self.state)
        if self._gpt.mel_head.weight.is_cuda:
            torch.cuda.synchronize()  # copies into pinned memory are only begun

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.weights.values(), *self.state.values()))

    def write_weights(self, folder: Path) -> None:
        """Write model.safetensors. Other threads run meanwhile: safetensors releases the interpreter's lock.

        Raises:
            safetensors.SafetensorError: it cannot be written.
        """
        save_file(self.weights, folder / WEIGHTS)

    def write_optimizer(self, folder: Path) -> None:
        """Write optimizer.safetensors; as `write_weights`."""
        save_file(self.state, folder / OPTIMIZER)


def load_tensors(folder: Path, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Put what a `Snapshot` wrote back, bit for bit."""
    gpt.load_state_dict(load_file(folder / WEIGHTS))
    state: dict[int, dict[str, Tensor | int]] = {}
    # pread: mapped tensors would hold on to the file's room on disk after it is deleted
    for key, value in load_file(folder / OPTIMIZER, backend="pread").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = int(value) if value.dtype == torch.int64 else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Its state by key. Plain integers, as bitsandbytes counts its steps, become int64; nothing else is of that type.

    Not from its `state_dict()`, in which bitsandbytes nests and renames things.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            yield f"{index}.{name}", torch.as_tensor(value)


def _on_host(tensors: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `tensors`, made into those of an earlier moment where they are held."""
    copies = {}
    for name, tensor in tensors.items():
        copy = held.get(name)
        if copy is None:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = copy.copy_(tensor, non_blocking=True)
    return copies
