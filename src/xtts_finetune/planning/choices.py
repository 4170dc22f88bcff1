"""Ways to train a phase that differ in what they need: which of them fit a device, and which is to be recommended."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from tqdm import tqdm

from xtts_finetune.core.phase_params import LoraParams, PhaseParams
from xtts_finetune.planning.longest import ALLOWED, Clips, longest_batch
from xtts_finetune.planning.memory import Memory, TracedTraining
from xtts_finetune.planning.network import Network
from xtts_finetune.training.loss import EVAL_BATCH

# Adapters where the parameters describe none.
LORA = LoraParams(rank=16, alpha=32.0, dropout=0.05, layers=["c_attn", "c_proj", "c_fc"], in_full=[])
METHOD = ("method", "train_only", "lora")  # what of a phase says what of the network it trains
OPTIMISERS = ("adamw", "adamw8bit")
MOST_SIZES = 5  # of batches in a table, from the smallest to the largest, beside the parameters' own
# What a device holds beside tensors: CUDA's context, its libraries and the workspaces of matrix products; of a process
# on a CPU, Python and all that is imported (0.8 GiB on Linux).
CONTEXT = {True: 512 << 20, False: 1 << 30}
SPARE = 0.1  # of the tensors at the peak: as far as the trace may be off, and what torch's allocator leaves in pieces
_UNITS = {"": 30, "g": 30, "gb": 30, "gib": 30, "m": 20, "mb": 20, "mib": 20}


@dataclass(frozen=True)
class Device:
    """What is to hold a training.

    Attributes:
        bytes: of its memory that are free for it.
        name: in words.
    """

    on_gpu: bool
    bytes: int
    name: str

    def needed(self, memory: Memory) -> int:
        """Bytes that it must have for a training of that memory.

        A GPU: also for graphs. A CPU: also for what a save copies, which there lies in the same memory.
        """
        beside = memory.graphs if self.on_gpu else memory.state
        return int(memory.peak * (1 + SPARE)) + beside + CONTEXT[self.on_gpu]

    def fits(self, memory: Memory) -> bool:
        return self.needed(memory) <= self.bytes


def parsed_size(text: str) -> int:
    """Bytes of a size as cards have it on their boxes: 8GiB, 8GB and 8 are all 8 × 1024³.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in _UNITS or not float(match[1]):
        raise ValueError(f"{text!r} is no size of a memory, as 8GiB is one")
    return int(float(match[1]) * 2 ** _UNITS[match[2]])


@dataclass(frozen=True)
class Way:
    """How to train, but for the size of a batch."""

    method: str
    precision: str
    gradient_checkpointing: bool
    optim: str

    @classmethod
    def of(cls, phase: PhaseParams) -> "Way":
        return cls(_method(phase), phase.precision, phase.gradient_checkpointing, phase.optim)

    def applied(self, phase: PhaseParams, size: int) -> PhaseParams:
        """The phase in this way, in batches of `size` clips and as many of them a step as leave its clips alike."""
        changes: dict[str, Any] = {
            "precision": self.precision,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        if self.method != _method(phase):
            changes |= {"method": self.method, "train_only": None, "lora": LORA if self.method == "lora" else None}
        changes |= {"optim": self.optim, "batch_size": size, "accumulate": max(1, clips_a_step(phase) // size)}
        return phase.model_copy(update=changes)


def _method(phase: PhaseParams) -> str:
    """What of the network is trained, in a word."""
    return "parts" if phase.train_only else phase.method


def methods(phase: PhaseParams) -> list[str]:
    return list(dict.fromkeys([_method(phase), "full", "lora"]))


def clips_a_step(phase: PhaseParams) -> int:
    return phase.batch_size * phase.accumulate


def ways(phase: PhaseParams, on_gpu: bool) -> list[Way]:
    """The parameters' own method before others, and their own precision; else from what is quickest on."""
    other = "bf16" if phase.precision != "bf16" else "tf32" if on_gpu else "fp32"  # tf32 needs as much as fp32
    choices = product(methods(phase), (False, True), (phase.precision, other), OPTIMISERS)
    return [Way(method, precision, saves, optim) for method, saves, precision, optim in choices]


def even_sizes(phase: PhaseParams, least: int = 1) -> list[int]:
    """Batch sizes that share the clips of a step evenly, from `least` clips on; the parameters' own among them."""
    clips = clips_a_step(phase)
    even = {size for size in range(1, min(clips, ALLOWED) + 1) if clips % size == 0}
    return sorted(size for size in even | {phase.batch_size} if size >= least)


@dataclass(frozen=True, eq=False)
class Traces:
    """The steps of a phase trained in this way and that, each traced once, when it is first asked for.

    Attributes:
        train, evaluated: the longest clips of either split.
    """

    network: Network
    phase: PhaseParams
    on_gpu: bool
    train: Clips
    evaluated: Clips
    _trainings: dict[Way, TracedTraining] = field(default_factory=dict, init=False)
    _memories: dict[tuple[Way, int], Memory] = field(default_factory=dict, init=False)

    def training(self, way: Way) -> TracedTraining:
        if way not in self._trainings:
            phase = way.applied(self.phase, self.phase.batch_size)
            evaluated = self.evaluated.first(EVAL_BATCH).batch()
            self._trainings[way] = TracedTraining(self.network.build, phase, self.on_gpu, evaluated)
        return self._trainings[way]

    def memory(self, way: Way, size: int) -> Memory:
        if (way, size) not in self._memories:
            phase = way.applied(self.phase, size)
            batch = longest_batch(self.train, size, phase.batch_tokens)
            self._memories[way, size] = self.training(way).memory(batch, phase.accumulate > 1)
        return self._memories[way, size]


@dataclass(frozen=True, eq=False)
class Choices:
    """What ways to train a phase need of a device.

    Attributes:
        processes: that a batch has at least a clip for, each.
    """

    traces: Traces
    device: Device
    processes: int = 1

    @property
    def phase(self) -> PhaseParams:
        return self.traces.phase

    @property
    def own(self) -> tuple[TracedTraining, Memory]:
        """The training that the parameters ask for."""
        way = Way.of(self.phase)
        return self.traces.training(way), self.traces.memory(way, self.phase.batch_size)

    @cached_property
    def sizes(self) -> list[int]:
        """Batches to show: some that share a step's clips evenly, the parameters' and the recommended; the double."""
        even, own = even_sizes(self.phase, self.processes), {self.phase.batch_size}
        if self.recommended:
            own.add(self.recommended[1])
        last = len(even) - 1
        some = {even[round(place * last / (MOST_SIZES - 1))] for place in range(MOST_SIZES)}
        return [*sorted(some | own), 2 * clips_a_step(self.phase)]

    @cached_property
    def table(self) -> dict[Way, dict[int, Memory]]:
        """By way and batch size, as far as it can fit; behind a progress bar."""
        bar = tqdm(self._ways, desc="tracing steps", unit="way", leave=False)
        return {way: dict(self._sizes_that_may_fit(way)) for way in bar}

    @property
    def fitting(self) -> Iterator[tuple[Way, int]]:
        """What fits, the quickest first, in batches that share a step's clips evenly: of a way the largest first."""
        for way in tqdm(self._ways, desc="looking for what fits", unit="way", leave=False):
            yield from ((way, size) for size in reversed(self._fitting_sizes(way)))

    @cached_property
    def recommended(self) -> tuple[Way, int] | None:
        """The quickest that fits."""
        return next(self.fitting, None)

    @property
    def _ways(self) -> list[Way]:
        return ways(self.phase, self.device.on_gpu)

    def _fitting_sizes(self, way: Way) -> list[int]:
        """From the smallest on. Of several batches a step larger ones need more: not all have to be traced."""
        even = even_sizes(self.phase, self.processes)
        shared = [size for size in even if size < clips_a_step(self.phase)]
        most = bisect_left(shared, True, key=lambda size: not self._fits(way, size))
        return [*shared[:most], *(size for size in even[len(shared) :] if self._fits(way, size))]

    def _fits(self, way: Way, size: int) -> bool:
        return self.device.fits(self._memory(way, size))

    def _memory(self, way: Way, size: int) -> Memory:
        """Ways that differ in the optimiser alone share a traced step."""
        moments = self.traces.training(replace(Way.of(self.phase), method=way.method, optim=way.optim)).moments
        return self.traces.memory(replace(way, optim=OPTIMISERS[0]), size).with_moments(moments)

    def _sizes_that_may_fit(self, way: Way) -> Iterator[tuple[int, Memory]]:
        """From the smallest on; each of several batches of a step may need more than a larger one alone."""
        is_too_large = False
        for size in self.sizes:
            is_alone = size >= clips_a_step(self.phase)
            if is_too_large and not is_alone:
                continue
            memory = self._memory(way, size)
            yield size, memory
            is_too_large = not self.device.fits(memory)
            if is_too_large and is_alone:
                return


def lines_to_paste(way: Way, phase: PhaseParams, size: int) -> Iterator[str]:
    """Of params.yaml, below a phase's name."""
    what = METHOD if way.method != _method(phase) else ()
    names = (*what, "batch_size", "accumulate", "optim", "precision", "gradient_checkpointing")
    yield from lines_of(way.applied(phase, size), names)


def lines_of(phase: PhaseParams, names: Sequence[str]) -> Iterator[str]:
    values = phase.model_dump()
    for name in names:
        value = values[name]
        yield f"{name}: {value if isinstance(value, str) else json.dumps(value)}"  # which YAML reads, too
