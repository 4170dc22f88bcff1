"""The tensors of a resumable state: weights, their EMA and optimiser, as safetensors."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import EMA, OPTIMIZER, WEIGHTS
from xtts_finetune.model.base import load_trained
from xtts_finetune.model.trained import Header, trained_state
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training.ema import Ema
from xtts_finetune.training.optim import kept_per_parameter

Tensors = dict[str, Tensor]  # by name


class Snapshot:
    """What is trained, its EMA and the optimiser's state, of one moment: they can be written while training goes on.

    Every moment is copied into the same memory, 5.3 GB for XTTS v2 with AdamW, by the thread that writes it, when the
    one before is written. Training computes the next gradients meanwhile; weights must not change before
    `before_update`, which waits for the copy. A GPU with room for two more first copies the moment in its own memory
    until it is on the host: then nothing waits for the way there.

    There is no second piece of memory on the host. Where saves fall due faster than the disk takes them, it would put
    off the wait once, for another 5.3 GB.

    Attributes:
        size: bytes of all tensors of the moment.
        weights: what is trained, by its names in the model.
        averages: their EMA, by the same names; empty where there is none.
        state: of the optimiser, by `<parameter's name>.<its own>`, e.g. text_head.weight.exp_avg; empty before its
            first step.
    """

    def __init__(
        self, gpt: GPT, optimizer: torch.optim.Optimizer, ema: Ema | None = None, header: Header | None = None
    ) -> None:
        self.size = 0
        self.weights: Tensors = {}
        self.averages: Tensors = {}
        self.state: Tensors = {}
        self._gpt = gpt
        self._optimizer = optimizer
        self._ema = ema
        self._entries = header.entries() if header else None
        self._host = [_Memory({}) for _ in (self.weights, self.averages, self.state)]
        self._copied: Future[None] = Future()
        self._copied.set_result(None)
        self._may_change = True  # what is copied from
        self._stream = torch.cuda.Stream() if gpt.mel_head.weight.is_cuda else None

    def refresh(self, worker: Executor) -> "Future[None]":
        """Take what model, EMA and optimiser hold now.

        Args:
            worker: copies it to the host, one after the other with all that writes it.

        Returns:
            What the copying came to: only a moment that was copied may be written, and on `worker`.
        """
        self._copied.result()
        moment = [trained_state(self._gpt), {}, dict(optimizer_tensors(self._gpt, self._optimizer))]
        if self._ema:
            with self._ema.in_use():
                moment[1] = trained_state(self._gpt)
        self.size = sum(tensor.nbytes for tensor in _all(moment))
        on_gpu = self._copied_on_gpu(moment)
        self._may_change = bool(on_gpu)
        ready = torch.cuda.current_stream().record_event() if self._stream else None
        self._copied = worker.submit(self._copy, moment, on_gpu, ready)
        return self._copied

    def before_update(self) -> None:
        """Wait with what changes weights until they are copied."""
        if not self._may_change:
            self._copied.result()

    def write_weights(self, folder: Path) -> None:
        """Write model.safetensors. Other threads run meanwhile: safetensors releases the interpreter's lock.

        Raises:
            safetensors.SafetensorError: it cannot be written.
        """
        save_file(self.weights, folder / WEIGHTS, metadata=self._entries)

    def write_ema(self, file: Path) -> None:
        """Write the EMA, if there is one, as weights are written."""
        if self.averages:
            save_file(self.averages, file, metadata=self._entries)

    def write_optimizer(self, folder: Path) -> None:
        """Write optimizer.safetensors; as `write_weights`."""
        save_file(self.state, folder / OPTIMIZER)

    def _copied_on_gpu(self, moment: list[Tensors]) -> "list[_Memory]":
        """Copies on the GPU; none where they would take more than half of what is free, which steps may need.

        They last until they are on the host, as longer clips may need their memory later.
        """
        if self._stream is None:
            return []
        held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by torch, of what was given back to it
        if 2 * self.size > torch.cuda.mem_get_info()[0] + held:
            return []
        try:
            copies = [_Memory(tensors, self._gpt.mel_head.weight.device) for tensors in moment]
        except torch.OutOfMemoryError:  # what torch holds is in pieces, or a graph's
            return []
        torch._foreach_copy_(_all(copy.tensors for copy in copies), _all(moment))
        return copies

    def _copy(self, moment: list[Tensors], on_gpu: "list[_Memory]", ready: torch.cuda.Event | None) -> None:
        """Copy to the host, on the worker: as a whole from copies `on_gpu`, else from where training has it."""
        self._host = [
            held if held.is_like(tensors) else _Memory(tensors, pinned=self._stream is not None)
            for held, tensors in zip(self._host, moment, strict=True)
        ]
        self.weights, self.averages, self.state = (held.tensors for held in self._host)
        if on_gpu:
            into, source = [held.whole for held in self._host], [copy.whole for copy in on_gpu]
        else:
            into, source = _all(held.tensors for held in self._host), _all(moment)
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            if ready:
                ready.wait()
            torch._foreach_copy_(into, source, non_blocking=True)
        if self._stream:
            self._stream.synchronize()


class _Memory:
    """One piece of memory, in which tensors of these names, shapes and types lie one behind the other.

    It is copied, and pinned, by one command instead of thousands. Torch rounds pinned memory up to a power of two: to
    6.4 GB for XTTS v2's weights and moments.
    """

    def __init__(self, like: Tensors, device: torch.device | None = None, pinned: bool = False) -> None:
        # each begins where a GPU's widest loads may
        starts = list(accumulate((-(-tensor.nbytes // 16) * 16 for tensor in like.values()), initial=0))
        self.whole = torch.empty(starts[-1], dtype=torch.uint8, device=device, pin_memory=pinned)
        self.tensors: Tensors = {
            name: self.whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, (name, tensor) in zip(starts, like.items(), strict=False)
        }

    def is_like(self, tensors: Tensors) -> bool:
        return _form(self.tensors) == _form(tensors)


def _form(tensors: Tensors) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]


def _all(groups: Iterable[Tensors]) -> list[Tensor]:
    return [tensor for group in groups for tensor in group.values()]


def load_tensors(folder: Path, gpt: GPT, optimizer: torch.optim.Optimizer, ema: Ema | None, number: int) -> None:
    """Put what a `Snapshot` wrote back, bit for bit.

    Args:
        number: of the state's format.

    Raises:
        UserError: tensors that the model or its optimiser needs are missing, or others are there.
    """
    load_trained(gpt, load_file(folder / WEIGHTS), folder / WEIGHTS)
    if ema:
        with ema.in_use():
            load_trained(gpt, load_file(folder / EMA), folder / EMA)
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
            on_device = value if isinstance(value, Tensor) else torch.full((), value, device=parameter.device)
            yield f"{parameter_name}.{name}", on_device
