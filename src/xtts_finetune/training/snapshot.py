"""The tensors of a resumable state: weights and optimiser, as safetensors."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import OPTIMIZER, WEIGHTS
from xtts_finetune.model.base import load_state
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training.optim import kept_per_parameter


class Snapshot:
    """Weights and optimiser state of one moment, copied to the host: they can be written while training goes on.

    Every moment is copied into the same memory, 5.3 GB for XTTS v2 with AdamW. From a GPU it is copied behind what
    training goes on with, into pinned memory: weights must not change before `before_update`, which the GPU waits for.

    Attributes:
        weights: by their names in the model.
        state: of the optimiser, by `<parameter's name>.<its own>`, e.g. text_head.weight.exp_avg; empty before its
            first step.
    """

    def __init__(self, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
        self.weights: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}
        self._gpt = gpt
        self._optimizer = optimizer
        self._stream = torch.cuda.Stream() if gpt.mel_head.weight.is_cuda else None
        self._copied = torch.cuda.Event() if self._stream else None

    def refresh(self) -> None:
        """Begin to copy what model and optimiser hold now. Not while it is written on another thread."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            self.weights = _on_host(self._gpt.state_dict(), self.weights)
            self.state = _on_host(dict(optimizer_tensors(self._gpt, self._optimizer)), self.state)
            if self._copied:
                self._copied.record()

    def before_update(self) -> None:
        """Let the GPU, not the host, wait with what changes weights until they are copied."""
        if self._copied:
            torch.cuda.current_stream().wait_event(self._copied)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.weights.values(), *self.state.values()))

    def write_weights(self, folder: Path) -> None:
        """Write model.safetensors. Other threads run meanwhile: safetensors releases the interpreter's lock.

        Raises:
            safetensors.SafetensorError: it cannot be written.
        """
        self._wait()
        save_file(self.weights, folder / WEIGHTS)

    def write_optimizer(self, folder: Path) -> None:
        """Write optimizer.safetensors; as `write_weights`."""
        self._wait()
        save_file(self.state, folder / OPTIMIZER)

    def _wait(self) -> None:
        if self._copied:
            self._copied.synchronize()


def load_tensors(folder: Path, gpt: GPT, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Put what a `Snapshot` wrote back, bit for bit.

    Args:
        number: of the state's format.

    Raises:
        UserError: tensors that the model or its optimiser needs are missing, or others are there.
    """
    load_state(gpt, load_file(folder / WEIGHTS), folder / WEIGHTS)
    # pread: mapped tensors would hold on to the file's room on disk after it is deleted
    tensors = load_file(folder / OPTIMIZER, backend="pread")
    names = _names(gpt, optimizer)
    if number == 1:
        tensors = {_renamed(key, names): value for key, value in tensors.items()}
    _check_complete(tensors, names, optimizer, folder / OPTIMIZER)
    restore_optimizer(gpt, optimizer, tensors)


def restore_optimizer(gpt: GPT, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser what `optimizer_tensors` took of another."""
    names = _names(gpt, optimizer)
    indices = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor | int]] = {}
    for key, value in tensors.items():
        parameter, _, name = key.rpartition(".")
        content = int(value) if value.dtype == torch.int64 else value
        state.setdefault(indices[parameter], {})[name] = content
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _names(gpt: GPT, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of the optimiser's parameters, in its order."""
    known = {id(parameter): name for name, parameter in gpt.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _renamed(key: str, names: list[str]) -> str:
    """A key of format 1, which began with the parameter's index."""
    index, _, name = key.partition(".")
    known = index.isdecimal() and int(index) < len(names)
    return f"{names[int(index)]}.{name}" if known else key


def _check_complete(tensors: Mapping[str, Tensor], names: list[str], optimizer: object, file: Path) -> None:
    """That every parameter has all that the optimiser keeps of it, and nothing else is there.

    Raises:
        UserError: naming the first keys that are missing or unknown.
    """
    if not tensors:  # before the first step
        return
    stored: dict[str, set[str]] = {name: set() for name in names}
    for key in tensors:
        parameter, _, name = key.rpartition(".")
        stored.setdefault(parameter, set()).add(name)
    missing, unknown = list[str](), list[str]()
    for parameter, names_kept in stored.items():
        options = kept_per_parameter(optimizer) if parameter in names else (set[str](),)
        expected = min(options, key=lambda kept: len(kept ^ names_kept))
        missing += [f"{parameter}.{name}" for name in sorted(expected - names_kept)]
        unknown += [f"{parameter}.{name}" for name in sorted(names_kept - expected)]
    kinds = (("lacks", missing), ("has, unknown to this code,", unknown))
    remedy = f"go on with the code that wrote it, or: rm -r {quoted(file.parent)}"
    problems = [Problem(str(file), f"{kind} {_shortened(keys)}", remedy) for kind, keys in kinds if keys]
    if problems:
        raise UserError("a state does not fit the model", problems)


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def optimizer_tensors(gpt: GPT, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Its state by key. Plain integers, as bitsandbytes counts its steps, become int64; nothing else is of that type.

    Not from its `state_dict()`, in which bitsandbytes nests and renames things.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for parameter_name, parameter in zip(_names(gpt, optimizer), parameters, strict=True):
        for name, value in optimizer.state.get(parameter, {}).items():
            yield f"{parameter_name}.{name}", torch.as_tensor(value)


def _on_host(tensors: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `tensors`, made into those of an earlier moment where they are held."""
    copies = {}
    for name, tensor in tensors.items():
        copy = held.get(name)
        if copy is None:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = copy.copy_(tensor, non_blocking=True)
    return copies
