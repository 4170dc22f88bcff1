"""Ways to train a phase that differ in what they need, and the lines of params.yaml for each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from xtts_finetune.core.phase_params import LoraParams, PhaseParams
from xtts_finetune.planning.longest import ALLOWED

# Adapters where the parameters describe none.
LORA = LoraParams(rank=16, alpha=32.0, dropout=0.05, layers=["c_attn", "c_proj", "c_fc"], in_full=[])
METHOD = ("method", "train_only", "lora")  # what of a phase says what of the network it trains
OPTIMISERS = ("adamw", "adamw8bit")


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

    def applied(self, phase: PhaseParams, size: int, other: PhaseParams) -> PhaseParams:
        """The phase in this way, in batches of `size` clips and as many of them a step as leave its clips alike.

        Args:
            other: the other phase, which says what a method is that is its own: phase 2 can go on with the same.
        """
        changes: dict[str, Any] = {
            "precision": self.precision,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        if self.method != _method(phase):
            changes |= _described(self.method, other)
        changes |= {"optim": self.optim, "batch_size": size, "accumulate": max(1, clips_a_step(phase) // size)}
        return phase.model_copy(update=changes)


def _method(phase: PhaseParams) -> str:
    """What of the network is trained, in a word."""
    return "parts" if phase.train_only else phase.method


def _described(method: str, other: PhaseParams) -> dict[str, Any]:
    """METHOD of a method: of the other phase's own as it has it."""
    if method == _method(other):
        return {name: getattr(other, name) for name in METHOD}
    return {"method": method, "train_only": None, "lora": LORA if method == "lora" else None}


def methods(phase: PhaseParams, other: PhaseParams) -> list[str]:
    return list(dict.fromkeys([_method(phase), "full", _method(other), "lora"]))


def clips_a_step(phase: PhaseParams) -> int:
    return phase.batch_size * phase.accumulate


def ways(phase: PhaseParams, other: PhaseParams, on_gpu: bool) -> list[Way]:
    """The parameters' own method before others, and their own precision; else from what is quickest on."""
    second = "bf16" if phase.precision != "bf16" else "tf32" if on_gpu else "fp32"  # tf32 needs as much as fp32
    choices = product(methods(phase, other), (False, True), (phase.precision, second), OPTIMISERS)
    return [Way(method, precision, saves, optim) for method, saves, precision, optim in choices]


def even_sizes(phase: PhaseParams, least: int = 1) -> list[int]:
    """Batch sizes that share the clips of a step evenly, from `least` clips on; the parameters' own among them."""
    clips = clips_a_step(phase)
    even = {size for size in range(1, min(clips, ALLOWED) + 1) if clips % size == 0}
    return sorted(size for size in even | {phase.batch_size} if size >= least)


def lines_to_paste(way: Way, phase: PhaseParams, size: int, other: PhaseParams) -> Iterator[str]:
    """Of params.yaml, below a phase's name; `other` as of `Way.applied`."""
    what = METHOD if way.method != _method(phase) else ()
    names = (*what, "batch_size", "accumulate", "optim", "precision", "gradient_checkpointing")
    yield from lines_of(way.applied(phase, size, other), names)


def lines_of(phase: PhaseParams, names: Sequence[str]) -> Iterator[str]:
    values = phase.model_dump()
    for name in names:
        value = values[name]
        yield f"{name}: {value if isinstance(value, str) else json.dumps(value)}"  # which YAML reads, too
