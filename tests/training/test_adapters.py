"""Training adapters, or some parts: what is frozen stays as it was, states are small, and a run resumes as exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from making.params import LORA, PARTS, make_params
from operators import REFUSED, WAITING
from safetensors.torch import load_file
from test_trace import step_calls
from workbench import assert_stops_change_nothing, interrupt, make_run, store_of, train

from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.phase_params import GPT_PARTS, PhaseParams
from xtts_finetune.diskspace.sizes import measure
from xtts_finetune.model.base import Base
from xtts_finetune.model.header import Header
from xtts_finetune.model.trained import freeze
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram

pytestmark = pytest.mark.usefixtures("short_prompts")
ADAPTERS = {**LORA, "lora": {**LORA["lora"], "in_full": ["mel_head"]}}
VARIANTS = [
    LORA,
    {**ADAPTERS, "precision": "bf16", "gradient_checkpointing": True},
    {**ADAPTERS, "optim": "adamw8bit"},
    {**PARTS, "precision": "bf16"},
]
each = pytest.mark.parametrize("changes", VARIANTS, ids=["lora", "lora bf16", "lora 8bit", "parts bf16"])


@each
def test_stopped_and_continued_is_as_never_stopped(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    figures = assert_stops_change_nothing(workspace, Workspace(tmp_path / "whole"), **changes)["figures"]
    assert figures["eval"]["mel_ce"] < figures["start"]["mel_ce"]


@each
def test_states_have_what_is_trained_and_nothing_else(workspace: Workspace, changes: dict[str, Any]) -> None:
    params = make_params(**changes)
    foretold = measure(workspace, "phase1", params)
    interrupt(workspace, 2, **changes)
    state = store_of(workspace).states()[-1]
    weights, moments = (load_file(state.folder / f"{name}.safetensors") for name in ("model", "optimizer"))
    header = Header.of_file(state.weights)
    assert header and header.trained == params.train_phase1.trained
    assert {name.rpartition(".")[0] for name in moments} == weights.keys()
    trained = sum(value.numel() for value in weights.values())
    assert foretold and foretold.weights == 4 * trained
    written = sum(file.stat().st_size for file in state.folder.iterdir())
    assert written == pytest.approx(foretold.state, rel=0.1, abs=20_000)  # headers and curve


@each
def test_what_is_frozen_stays_as_it_was(workspace: Workspace, changes: dict[str, Any]) -> None:
    run = make_run(workspace, make_params(**changes))
    before = {name: value.clone() for name, value in run.gpt.state_dict().items()}
    trained = {name for name, parameter in run.gpt.named_parameters() if parameter.requires_grad}
    for _ in range(3):
        run.take_step()
    run.read_figures()
    moved = {name for name, value in run.gpt.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == trained


def test_their_dropout_is_their_own(workspace: Workspace) -> None:
    run = make_run(workspace, make_params(**LORA, dropout=0.3))
    rates = {name: module.p for name, module in run.gpt.named_modules() if isinstance(module, torch.nn.Dropout)}
    own = {name for name in rates if "lora_dropout" in name}
    assert own
    assert {rates[name] for name in own} == {LORA["lora"]["dropout"]}
    assert 0.3 in {rate for name, rate in rates.items() if name not in own}


@pytest.mark.parametrize("second", [LORA, {}], ids=["adapters again", "then all"])
def test_phase_2_goes_on_from_adapters(workspace: Workspace, second: dict[str, Any]) -> None:
    first = make_params(**LORA)
    train(workspace, first)
    whole = {"method": "full", "lora": None, **second}
    params = first.model_copy(update={"train_phase2": make_params(**whole).train_phase2})
    train(workspace, params, name="phase2")
    one, two = (read_json(workspace.metrics(phase)) for phase in PHASES)
    assert two["start"]["mel_ce"] == pytest.approx(one["eval"]["mel_ce"], abs=1e-5)
    assert two["eval"]["mel_ce"] < two["start"]["mel_ce"]
    size = (workspace.model("phase2") / "model.safetensors").stat().st_size
    everything = 4 * Base.prepared(workspace).info["gpt"]["parameters"]
    assert size < everything / 5 if second else size > everything


def test_what_phase_2_may_freeze(workspace: Workspace) -> None:
    lora, parts, full = (make_params(**changes).train_phase1 for changes in (LORA, PARTS, {}))
    gentler = make_params(**{**LORA, "lora": {**LORA["lora"], "dropout": 0.0}}).train_phase1
    for first, second in ((lora, lora), (lora, gentler), (parts, parts), (lora, full), (parts, full), (full, full)):
        phases(first, second)
    for first, second in ((full, lora), (parts, lora), (lora, parts), (full, parts)):
        with pytest.raises(ValueError, match="train_phase2 freezes what train_phase1 trained"):
            phases(first, second)


def phases(first: PhaseParams, second: PhaseParams) -> Params:
    everything = make_params().model_dump()
    return Params(**everything | {"train_phase1": first.model_dump(), "train_phase2": second.model_dump()})


def test_changed_adapters_are_another_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(workspace, 2, **LORA)
    other = {**LORA, "lora": {**LORA["lora"], "rank": 2}}
    interrupt(workspace, 1, **other)
    said = capsys.readouterr().out
    assert "another run: train_phase1.lora" in said
    assert "'rank': 4" in said and "'rank': 2" in said
    interrupt(workspace, 3, **LORA)
    assert "phase1 goes on with the run that was parked" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [LORA, {**LORA, "precision": "bf16"}, PARTS], ids=["lora", "lora bf16", "parts"])
def test_a_step_waits_for_nothing(
    mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram, changes: dict[str, Any]
) -> None:
    freeze(mini_gpt, make_params(**changes).train_phase1.trained, 0.1, 1)
    calls = step_calls(mini_gpt, conditioning_mel, 1, **changes)
    assert calls.keys() & REFUSED == set()
    assert calls.keys() & WAITING == set()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", GPT_PARTS)
def test_any_part_can_be_trained_alone(workspace: Workspace, part: str, precision: str) -> None:
    run = make_run(workspace, make_params(train_only=[part], precision=precision, accumulate=2))
    for _ in range(2):
        run.take_step()
    run.read_figures()
    assert run.curve.rows[-1]["train/grad_norm"] > 0
