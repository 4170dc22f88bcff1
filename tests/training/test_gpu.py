"""The real thing: steps, evaluation, saving and resuming on a GPU."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from making.batches import random_batch
from making.params import LORA, make_params
from workbench import interrupt, make_run, outcome, train

from xtts_finetune.core.layout import Workspace
from xtts_finetune.model.forward import Settings, hidden_states
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training import loss
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.packing import MicroBatch, SpecialTokens, pack
from xtts_finetune.training.step import Step, is_padding_free
from xtts_finetune.training.team import Team

pytestmark = pytest.mark.gpu
PHASE = make_params().train_phase1
VARIANTS: list[dict[str, Any]] = [
    {"precision": "fp32"},
    {"precision": "tf32"},
    {"precision": "bf16"},
    {"precision": "bf16", "ema": 0.9},
    {"precision": "bf16", "attention_dropout": 0.1},
    {"precision": "bf16", "gradient_checkpointing": True},
]
each = pytest.mark.parametrize("changes", VARIANTS, ids=str)


@pytest.fixture
def on_gpu(mini_gpt: GPT) -> GPT:
    return mini_gpt.cuda()


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def micro_batch(gpt: GPT, count: int, padding_free: bool) -> MicroBatch:
    return pack(random_batch(count), SpecialTokens.of(gpt), False, padding_free)


@each
def test_nothing_in_a_step_waits(
    on_gpu: GPT,
    conditioning_mel: TorchMelSpectrogram,
    waiting_is_an_error: None,
    changes: dict[str, Any],
) -> None:
    """Three of a shape: the first warms up, the second is recorded, the third is one launch where there are graphs."""
    phase = PHASE.model_copy(update=changes)
    step = Step(on_gpu, conditioning_mel, build_optimizer(on_gpu, phase), phase, Team.alone())
    padding_free = is_padding_free(torch.device("cuda"), phase)
    micros = [micro_batch(on_gpu, 3, padding_free).ready_for(torch.device("cuda")) for _ in range(2)]
    for number in range(2):
        step(micros, 1e-3, number, lambda: None)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    figures = step(micros, 1e-3, 2, lambda: None)
    torch.cuda.set_sync_debug_mode("default")
    assert figures.isfinite().all()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_padding_free_attention_is_that_of_the_padded(on_gpu: GPT, conditioning_mel: Any, count: int) -> None:
    """Losses within 2e-3 of fp32's, gradients within 3 %, of every kind of layout."""
    on_gpu.eval()
    measured = {}
    for name, padding_free, precise in (("fp32", False, True), ("padded", False, False), ("free", True, False)):
        micro = micro_batch(on_gpu, count, padding_free).to(torch.device("cuda"))
        with torch.autocast("cuda", torch.bfloat16, enabled=not precise):
            sums = loss.losses(on_gpu, conditioning_mel, micro, Settings())
        (sums * micro.weights).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in on_gpu.parameters()])
        on_gpu.zero_grad()
        measured[name] = sums.detach(), gradient
    for name in ("padded", "free"):
        torch.testing.assert_close(measured[name][0], measured["fp32"][0], rtol=2e-3, atol=0)
        apart = (measured[name][1] - measured["fp32"][1]).norm() / measured["fp32"][1].norm()
        assert apart < 0.03, name


def test_a_recorded_step_is_the_step(on_gpu: GPT, conditioning_mel: Any) -> None:
    """Bit for bit, dropout and all: recorded as a graph, or taken as it is."""
    phase = PHASE.model_copy(update={"precision": "bf16"})
    start = {name: value.clone() for name, value in on_gpu.state_dict().items()}
    ends = []
    for recorded in (True, False):
        on_gpu.load_state_dict(start)
        on_gpu.zero_grad()
        step = Step(on_gpu, conditioning_mel, build_optimizer(on_gpu, phase), phase, Team.alone())
        for number in range(6):
            if not recorded:
                step._graphs, step._update = None, step._finish
            micros = [micro_batch(on_gpu, 2 + number % 2, True), micro_batch(on_gpu, 2, True)]
            figures = step(micros, 1e-3, number, lambda: None)
        ends.append({**{name: value.clone() for name, value in on_gpu.state_dict().items()}, "figures": figures})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    "changes", [*VARIANTS, {**VARIANTS[-1], "optim": "adamw8bit"}, {**LORA, "precision": "bf16"}], ids=str
)
def test_stopped_and_gone_on_with_it_ends_in_the_same_bytes(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    other = Workspace(tmp_path_factory.mktemp("other") / "workspace")
    shutil.copytree(workspace.root, other.root)
    train(workspace, make_params(**changes))
    for stop_at in (1, 3, 5):
        interrupt(other, stop_at, **changes)
    train(other, make_params(**changes))
    assert outcome(other) == outcome(workspace)


def test_an_evaluation_is_that_of_the_cpu(on_gpu: GPT, conditioning_mel: Any) -> None:
    on_device = loss.evaluate(on_gpu, conditioning_mel, [random_batch(3), random_batch(5)])
    on_cpu = loss.evaluate(on_gpu.cpu(), conditioning_mel, [random_batch(3), random_batch(5)])
    assert on_device.mel_ce == pytest.approx(on_cpu.mel_ce, rel=1e-5)
    assert on_device.text_ce == pytest.approx(on_cpu.text_ce, rel=1e-5)


def test_conditioning_and_hidden_states_on_the_device(on_gpu: GPT, conditioning_mel: Any) -> None:
    on_gpu.eval()
    micro = micro_batch(on_gpu, 2, False)
    with torch.no_grad():
        prompt = conditioning_mel(micro.packed.conditioning)
        on_cpu = hidden_states(on_gpu.cpu(), prompt, micro.packed, Settings())
        there = micro.to(torch.device("cuda"))
        on_device = hidden_states(on_gpu.cuda(), prompt.cuda(), there.packed, Settings())
    for ours, theirs in zip(on_device, on_cpu, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


def test_the_run_in_bf16_learns_as_in_fp32(workspace: Workspace) -> None:
    final = {}
    for precision in ("fp32", "bf16"):
        run = make_run(workspace, make_params(precision=precision, lr=3e-3))
        for _ in range(3):
            run.take_step()
        run.evaluate()
        final[precision] = run.curve.rows[-1]["eval/mel_ce"]
    assert final["bf16"] == pytest.approx(final["fp32"], rel=0.01)
