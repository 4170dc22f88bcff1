"""What a training is said to hold, against what torch's own allocator gave out for it."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making.params import LORA, PARTS, TINY_PHASE, starter
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.data.batches import Batch
from xtts_finetune.model import xtts
from xtts_finetune.model.forward import set_dropout
from xtts_finetune.model.trained import freeze
from xtts_finetune.planning.longest import Clips
from xtts_finetune.planning.memory import Memory, TracedTraining
from xtts_finetune.planning.network import Network, network_of
from xtts_finetune.training import loss
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.packing import SpecialTokens, pack
from xtts_finetune.training.step import Step, is_padding_free
from xtts_finetune.training.team import Team

PREPARE = starter().prepare
CONFIGURATIONS: list[dict[str, Any]] = [
    {"batch_size": 1},
    {"batch_size": 3},
    {"batch_size": 4, "gradient_checkpointing": True},
    {"batch_size": 1, "accumulate": 2},
    {"batch_size": 2, "accumulate": 2, "gradient_checkpointing": True},
    {"batch_size": 1, "attention_dropout": 0.1},
    {"batch_size": 2, "dropout": 0.0},
    {"batch_size": 2, "optim": "adamw8bit"},
    {"batch_size": 1, "optim": "adamw8bit", "gradient_checkpointing": True},
    {"batch_size": 1, "precision": "bf16"},
    {"batch_size": 3, "precision": "bf16"},
    {"batch_size": 2, "precision": "bf16", "gradient_checkpointing": True},
    {"batch_size": 2, "precision": "bf16", "accumulate": 2},
    {"batch_size": 1, "precision": "bf16", "optim": "adamw8bit", "gradient_checkpointing": True},
    {"batch_size": 2, "ema": 0.9},
    {"batch_size": 2, **LORA},
    {"batch_size": 2, "precision": "bf16", "gradient_checkpointing": True, **LORA},
    {"batch_size": 2, "precision": "bf16", **PARTS},
]


NOWHERE = Workspace(Path("/nowhere"))  # so that a base's shapes are those that are known without files
QUICK = ({"batch_size": 1}, {"batch_size": 2, "optim": "adamw8bit"}, {"batch_size": 1, "precision": "bf16"})


def phase_of(changes: dict[str, Any]) -> PhaseParams:
    return PhaseParams(**TINY_PHASE.model_dump() | {"accumulate": 1, **changes})


def mini() -> Network:
    return network_of(NOWHERE, "mini")


def batch_of(clips: int, most_tokens: int | None = None) -> Batch:
    return Clips.allowed(PREPARE).first(clips, most_tokens).batch()


def traced(phase: PhaseParams, on_gpu: bool = False, base: str = "mini", most_tokens: int | None = None) -> Memory:
    training = TracedTraining(network_of(NOWHERE, base).build, phase, on_gpu, batch_of(loss.EVAL_BATCH))
    return training.memory(batch_of(phase.batch_size, most_tokens), phase.accumulate > 1)


def allocated(work: Callable[[], None]) -> int:
    """Bytes of the CPU's allocator at the peak of `work`, by torch's profiler."""
    gc.collect()  # what goes meanwhile would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    changes: list[tuple[int, int]] = []
    events = list(profiled.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.typed[1].alloc_size))
    now = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        peak = max(peak, now)
    return peak


def train(phase: PhaseParams, device: str = "cpu", base: str = "mini", most_tokens: int | None = None) -> None:
    """From the building of the network to its second step: in the first the optimiser makes its moments."""
    gpt = network_of(NOWHERE, base).build()
    freeze(gpt, phase.trained, phase.lora.dropout if phase.lora else 0.0, seed=0)
    gpt = gpt.to(device).train()
    set_dropout(gpt, phase.dropout)
    mel = xtts.build_conditioning_mel(torch.full((80,), 5.0))
    step = Step(gpt, mel, build_optimizer(gpt, phase), phase, Team.alone())
    padding_free = is_padding_free(torch.device(device), phase)
    batch = batch_of(phase.batch_size, most_tokens)
    micro = pack(batch, SpecialTokens.of(gpt), phase.mask_prompt, padding_free)
    step._graphs, step._update = None, step._finish  # what graphs hold is counted by itself
    for number in range(2):
        step([micro.ready_for(torch.device(device))] * phase.accumulate, 1e-3, number, lambda: None)


@pytest.mark.parametrize(
    "changes",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in CONFIGURATIONS],
    ids=str,
)
def test_a_step_holds_what_was_traced(changes: dict[str, Any]) -> None:
    phase = phase_of(changes)
    most_tokens = 100 if phase.precision == "bf16" else None  # many processors have no bf16: whole clips take a minute
    told = traced(phase, most_tokens=most_tokens).step  # first: else the profiler loses count at bitsandbytes' import
    real = allocated(lambda: train(phase, most_tokens=most_tokens))
    print(f"\ntraced {told:,} of {real:,} bytes: {told / real:.3f}")
    assert told == pytest.approx(real, rel=0.1)


@pytest.mark.slow
def test_a_step_at_the_true_shapes_holds_what_was_traced() -> None:
    """4.6 GB, of which the activations of whole clips would be a hundredth: they are for the smaller networks."""
    phase = phase_of({"batch_size": 1, "optim": "adamw8bit", "gradient_checkpointing": True})
    told = traced(phase, base="xtts_v2", most_tokens=40).step
    real = allocated(lambda: train(phase, base="xtts_v2", most_tokens=40))
    print(f"\ntraced {told:,} of {real:,} bytes: {told / real:.3f}")
    assert told == pytest.approx(real, rel=0.1)


def test_an_evaluation_holds_what_was_traced() -> None:
    phase = phase_of({"batch_size": 1})

    def evaluate() -> None:
        gpt = mini().build().train()
        loss.evaluate(gpt, xtts.build_conditioning_mel(torch.full((80,), 5.0)), [batch_of(loss.EVAL_BATCH)])

    memory = traced(phase)
    assert memory.evaluation - memory.moments == pytest.approx(allocated(evaluate), rel=0.1)


def test_another_optimiser_only_keeps_other_moments() -> None:
    told = traced(phase_of({"batch_size": 1, "optim": "adamw8bit"}))
    other = traced(phase_of({"batch_size": 1})).with_moments(told.moments)
    assert other.step == pytest.approx(told.step, rel=1e-3)
    assert other.peak == pytest.approx(told.peak, rel=1e-3)


def test_what_is_frozen_has_neither_gradient_nor_moments() -> None:
    whole, partly = (TracedTraining(mini().build, phase_of(each), False, batch_of(1)) for each in ({}, PARTS))
    trained, frozen = partly.parameters
    assert trained + frozen == whole.parameters[0]
    assert frozen
    memory = partly.memory(batch_of(1))
    assert memory.gradients == pytest.approx(4 * trained, rel=0.01)
    assert memory.moments == pytest.approx(8 * trained, rel=0.01)
    assert memory.state == pytest.approx(12 * trained, rel=0.01)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"gradient_checkpointing": True}, {}),
        ({"precision": "bf16", "gradient_checkpointing": True}, {"precision": "bf16"}),
        ({}, {"batch_size": 6}),
    ],
    ids=str,
)
def test_activations_on_a_gpu(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert traced(phase_of(less), on_gpu=True).activations < traced(phase_of(more), on_gpu=True).activations


def test_graphs_hold_activations_again_where_steps_are_recorded() -> None:
    assert traced(phase_of({"precision": "bf16"}), on_gpu=True).graphs > 0
    for changes in (
        {},
        {"precision": "bf16", "gradient_checkpointing": True},
        {"precision": "bf16", "attention_dropout": 0.1},
    ):
        assert traced(phase_of(changes), on_gpu=True).graphs == 0


@pytest.mark.gpu
@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_a_step_on_a_gpu_holds_what_was_traced(changes: dict[str, Any]) -> None:
    """But for the workspaces of matrix products, which CUDA's allocator gives out too, and keeps."""
    phase = phase_of(changes)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(phase, "cuda")
    gc.collect()
    peak, kept = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    assert traced(phase, on_gpu=True).step == pytest.approx(peak - kept, rel=0.1)
