"""The memory of a training step, found by taking it with tensors that have shapes and no content.

Every operator of the step is asked for, by the code that trains; what each gives is counted for as long as anything
refers to it. Nothing is computed, so a step at XTTS v2's shapes takes a second, and no more memory than its Python.
"""

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.data.batches import Batch
from xtts_finetune.model import xtts
from xtts_finetune.model.forward import Settings, set_dropout
from xtts_finetune.model.trained import freeze
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training.loss import losses
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.packing import MicroBatch, SpecialTokens, pack
from xtts_finetune.training.step import Step
from xtts_finetune.training.team import Team

GPU_BLOCK = (
    512  # bytes: what torch's allocator on a GPU rounds every tensor up to (kMinBlockSize, CUDACachingAllocator)
)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training.

    Attributes:
        weights: fp32, with what else a network holds.
        copies: of the weights in bf16, with `precision: bf16`.
        gradients: of what is trained, fp32.
        moments: what the optimiser keeps.
        ema: of what is trained, where there is one.
        activations: what the forward has kept for the backward pass when it is done, with the batch itself.
        step: all tensors at the peak of a step, what only lives for a moment included.
        graphs: held once more by CUDA graphs, where steps are recorded.
        evaluation: all tensors at the peak of an evaluation.
    """

    weights: int
    copies: int
    gradients: int
    moments: int
    ema: int
    trained: int
    activations: int
    step: int
    graphs: int
    evaluation: int

    @property
    def peak(self) -> int:
        """All tensors at once, at the most; without graphs, which are made only where they have room."""
        return max(self.step, self.evaluation)

    @property
    def state(self) -> int:
        """Of a resumable state: what a save copies on the host."""
        return self.trained + self.ema + self.moments

    def with_moments(self, moments: int) -> "Memory":
        """Of the same training with another optimiser: its moments lie there all the time, and are all it keeps."""
        more = moments - self.moments
        return replace(self, moments=moments, step=self.step + more, evaluation=self.evaluation + more)


class TracedTraining:
    """A training that is only asked what it holds.

    Of a GPU: clips end to end where a step there is padding-free, dropout and attention as CUDA's kernels do them, and
    each tensor in blocks of 512 bytes. What CUDA and its libraries take beside torch's tensors is not in it.

    Attributes:
        moments: bytes that the optimiser keeps.
    """

    def __init__(self, network: Callable[[], GPT], phase: PhaseParams, on_gpu: bool, evaluated: Batch) -> None:
        """`network` builds the network, of which what `phase` does not train is frozen; `evaluated`: a batch."""
        self._phase, self._evaluated = phase, evaluated
        self._fakes = FakeTensorMode()
        self._live = _Live(GPU_BLOCK if on_gpu else 1)
        self._padding_free = on_gpu and phase.precision == "bf16" and not phase.attention_dropout
        with torch.device("meta"):  # where peft can put adapters in
            gpt = network()
            freeze(gpt, phase.trained, phase.lora.dropout if phase.lora else 0.0, seed=0)
        with self._traced():
            self._gpt = _given_memory(_with_dropout_of_gpu(gpt) if on_gpu else gpt).train()
            set_dropout(self._gpt, phase.dropout)
            self._mel = xtts.build_conditioning_mel(torch.full((xtts.MEL_CHANNELS,), 1.0))
            self._weights = self._live.bytes
            optimizer = build_optimizer(self._gpt, phase)
            # attention on a GPU draws its dropout inside its kernel, and holds nothing for it
            computed = phase.model_copy(update={"attention_dropout": 0.0}) if on_gpu else phase
            self._step = Step(self._gpt, self._mel, optimizer, computed, Team.alone())
            self._ema = self._step.ema.bytes if self._step.ema else 0
            self._copies = self._live.bytes - self._weights - self._ema
            self._trained = [parameter for parameter in self._gpt.parameters() if parameter.requires_grad]
            self._let_gradients_be()
            self._gradients = self._live.bytes - self._weights - self._copies - self._ema
            optimizer.step()  # makes its moments
            self.moments = self._live.bytes - self._weights - self._copies - self._ema - self._gradients
            if not self._keeps_gradients:
                optimizer.zero_grad()

    @property
    def parameters(self) -> tuple[int, int]:
        """How many numbers are trained, and how many frozen."""
        trained = sum(parameter.numel() for parameter in self._trained)
        return trained, sum(parameter.numel() for parameter in self._gpt.parameters()) - trained

    def memory(self, batch: Batch, is_accumulated: bool = False) -> Memory:
        """Of steps of such a batch; `is_accumulated`: of several such a step."""
        with self._traced():
            micro = self._micro_batch(batch, self._padding_free)
            if is_accumulated:  # the second batch of a step, when the first has left its gradients
                self._let_gradients_be()
            before = self._live.start()
            self._step([micro], self._phase.lr, 0, lambda: None)
            step, activations = self._live.peak, self._live.at_backward - before
            del micro  # which an evaluation does not hold
        persistent = self._weights + self._copies + self._ema + self._gradients + self.moments
        is_recorded = self._padding_free and not self._phase.gradient_checkpointing
        return Memory(
            weights=self._weights,
            copies=self._copies,
            gradients=self._gradients,
            moments=self.moments,
            ema=self._ema,
            trained=sum(parameter.nbytes for parameter in self._trained),
            activations=activations,
            step=step,
            graphs=step - persistent if is_recorded else 0,
            evaluation=self._evaluation,
        )

    @property
    def _keeps_gradients(self) -> bool:
        """Whether gradients stay from step to step, instead of being made anew."""
        return self._phase.precision == "bf16"

    def _let_gradients_be(self) -> None:
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _micro_batch(self, batch: Batch, padding_free: bool) -> MicroBatch:
        micro = pack(batch, SpecialTokens.of(self._gpt), self._phase.mask_prompt, padding_free)
        shapes = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in micro.tensors().items()}
        packed = {name: shapes.pop(name) for name in micro.packed.tensors()}
        return replace(micro, packed=replace(micro.packed, **packed), **shapes)  # type: ignore[arg-type]

    @cached_property
    def _evaluation(self) -> int:
        """Bytes at the peak: after whatever step, the same."""
        with self._traced(), torch.no_grad():
            self._live.start()
            self._gpt.eval()
            losses(self._gpt, self._mel, self._micro_batch(self._evaluated, False), Settings())
            self._gpt.train()
            return self._live.peak

    @contextmanager
    def _traced(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # torchaudio's, of a filter bank that has no content here
            stack.enter_context(self._fakes)
            stack.enter_context(self._live)
            stack.enter_context(_BackwardNoted(self._live))
            yield


class _Live(TorchDispatchMode):
    """Counts the bytes of all that operators made and something still refers to."""

    def __init__(self, block: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self.at_backward = 0
        self._block = block
        self._sizes: dict[int, int] = {}  # by a storage's address

    def start(self) -> int:
        """Look for the peak from here on; what there is now."""
        self.peak = self.bytes
        return self.bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # the host asks whether the gradient is finite: it is
            return True
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._sizes:
            return
        size = storage.nbytes() + -storage.nbytes() % self._block
        self._sizes[place] = size
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.bytes -= self._sizes.pop(place)


class _BackwardNoted(TorchFunctionMode):
    """Notes what there is when the backward pass begins."""

    def __init__(self, live: _Live) -> None:
        super().__init__()
        self._live = live

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            self._live.at_backward = self._live.bytes
        return func(*args, **(kwargs or {}))


def _given_memory(gpt: GPT) -> GPT:
    """A network of shapes alone with tensors of these shapes on the processor, to where fake ones cannot be moved."""
    for module in gpt.modules():
        for name, parameter in module.named_parameters(recurse=False):
            there = torch.empty(parameter.shape, dtype=parameter.dtype)
            module.register_parameter(name, nn.Parameter(there, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return gpt


class _DropoutOfGpu(nn.Dropout):
    """As CUDA does it: its mask has a byte for each number; on a CPU, it is as large as the numbers themselves."""

    def forward(self, rows: Tensor) -> Tensor:
        dropped: Tensor = torch.native_dropout(rows, self.p, self.training)[0] if self.p else rows
        return dropped


def _with_dropout_of_gpu(gpt: GPT) -> GPT:
    for module in gpt.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, _DropoutOfGpu(child.p))
    return gpt
