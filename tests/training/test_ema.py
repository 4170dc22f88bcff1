"""The weights' moving average: kept as exactly as they are, evaluated beside them, and the best where it is better."""

import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from damage import flip_byte
from making.params import LORA, PARTS, make_params
from operators import REFUSED, WAITING
from safetensors.torch import load_file
from test_trace import step_calls
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from workbench import (
    StoppingTracker,
    assert_stops_change_nothing,
    interrupt,
    make_run,
    rows_of,
    store_of,
    train,
)

from xtts_finetune.checkpoints.stopping import ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.files import discard, read_json, sha256_file
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.sizes import measure
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training.share import Evaluated, Share
from xtts_finetune.training.snapshot import trained_state
from xtts_finetune.training.team import Order, Task, Team

pytestmark = pytest.mark.usefixtures("short_prompts")
SLOW: dict[str, Any] = {"ema": 0.99}  # far behind weights that get better at every step
GOOD: dict[str, Any] = {"ema": 0.5, "lr": 2e-2}  # of weights that jump about


def evaluations(workspace: Workspace) -> list[dict[str, Any]]:
    return [row for row in rows_of(workspace) if "eval/mel_ce" in row]


def test_it_is_the_average_that_torch_makes(workspace: Workspace) -> None:
    run = make_run(workspace, make_params(ema=0.9))
    theirs = AveragedModel(run.gpt, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(run.gpt)  # the first is a copy
    for _ in range(3):
        run.take_step()
        theirs.update_parameters(run.gpt)
    assert run.share.ema
    with run.share.ema.in_use():
        ours = {name: value.clone() for name, value in trained_state(run.gpt).items()}
    expected = theirs.module.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in ours.items())
    assert not torch.equal(run.gpt.mel_head.weight, ours["mel_head.weight"])


def test_its_figures_go_to_mlflow(workspace: Workspace) -> None:
    run = make_run(workspace, make_params(ema=0.9))
    run.evaluate()
    assert isinstance(run.tracker, StoppingTracker)
    [(_, metrics)] = run.tracker.rows
    assert metrics["eval_ema/mel_ce"] == metrics["eval/mel_ce"]
    assert metrics["eval_ema/text_ce"] == metrics["eval/text_ce"]


@pytest.mark.parametrize(("changes", "best"), [(GOOD, "ema"), ({**LORA, "ema": 0.7, "lr": 10.0}, "ema"), (SLOW, "raw")])
def test_the_best_is_the_better_of_both_and_says_which(
    workspace: Workspace, changes: dict[str, Any], best: str
) -> None:
    train(workspace, make_params(**changes))
    rows = evaluations(workspace)
    assert rows[0]["eval/mel_ce"] == rows[0]["eval_ema/mel_ce"]
    figures, at = (
        read_json(workspace.metrics("phase1")),
        min(rows, key=lambda row: min(row["eval/mel_ce"], row["eval_ema/mel_ce"])),
    )
    assert (figures["best_weights"], figures["step"]) == (best, at["step"])
    prefix = "eval_ema" if best == "ema" else "eval"
    assert (
        figures["eval"]["mel_ce"] == at[f"{prefix}/mel_ce"] < at["eval/mel_ce" if best == "ema" else "eval_ema/mel_ce"]
    )
    assert figures["eval"]["text_ce"] == at[f"{prefix}/text_ce"]
    again = make_run(workspace, make_params(**changes), name="phase2")
    assert again.share.evaluate()[0].mel_ce == pytest.approx(figures["eval"]["mel_ce"], abs=1e-6)


def test_its_file_is_shared_with_the_state_that_it_comes_from(workspace: Workspace) -> None:
    train(workspace, make_params(**GOOD, keep_last=9))
    store = store_of(workspace)
    best = store.best()
    assert best and best.damage() is None
    state = next(state for state in store.states() if state.step == best.step)
    assert best.weights.samefile(state.folder / "ema.safetensors")
    assert best.weights.samefile(workspace.model("phase1") / "model.safetensors")


def test_in_a_replay_the_other_may_be_better(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under newer code, whose rounding differs: what is the best is what the state says."""
    store = interrupt(workspace, 3, **GOOD)
    state, best = store.states()[-1], store.best()
    assert best and best.weights.samefile(state.weights)
    discard(state.folder)
    evaluate = Share.evaluate

    def otherwise(share: Share) -> Evaluated:
        found = evaluate(share)
        assert found.ema
        return found._replace(ema=replace(found.ema, mel=found.ema.mel / 2))

    monkeypatch.setattr(Share, "evaluate", otherwise)
    interrupt(workspace, 3, **GOOD)
    assert store.states()[-1].state["position"]["best_weights"] == "ema"
    best = store.best()
    assert best and best.weights.samefile(store.states()[-1].folder / "ema.safetensors")


@pytest.mark.parametrize(
    "changes",
    [SLOW, GOOD, {**LORA, **GOOD}, {**PARTS, **GOOD}, {**GOOD, "precision": "bf16"}, {**GOOD, "optim": "adamw8bit"}],
    ids=["slow", "good", "lora", "parts", "bf16", "8bit"],
)
def test_stopped_and_continued_is_as_never_stopped(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    ended = assert_stops_change_nothing(workspace, Workspace(tmp_path / "whole"), **changes)
    assert "ema.safetensors" in ended["last state"]


def test_a_state_whose_average_is_damaged_is_passed_over(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    store = interrupt(workspace, 5, **GOOD)
    flip_byte(store.states()[-1].folder / "ema.safetensors")
    train(workspace, make_params(**GOOD))
    assert "ema.safetensors has changed" in capsys.readouterr().out


def test_where_no_state_has_room_the_average_is_kept_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Workspace(workspace.root.with_name("whole"))
    shutil.copytree(workspace.root, whole.root)
    train(whole, make_params(**GOOD))
    monkeypatch.setattr(CheckpointStore, "_is_room_for", lambda store, size: False)
    train(workspace, make_params(**GOOD))
    assert store_of(workspace).states() == []
    models = [each.model("phase1") / "model.safetensors" for each in (workspace, whole)]
    assert sha256_file(models[0]) == sha256_file(models[1])


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {**LORA, "ema": 0.9}, {"ema": 0.9, "optim": "adamw8bit"}])
def test_what_a_state_takes_is_foretold(workspace: Workspace, changes: dict[str, Any]) -> None:
    foretold = measure(workspace, "phase1", make_params(**changes))
    state = interrupt(workspace, 2, **changes).states()[-1]
    written = sum(file.stat().st_size for file in state.folder.iterdir())
    assert foretold and written == pytest.approx(foretold.state, rel=0.1, abs=20_000)  # headers and curve
    without = measure(workspace, "phase1", make_params(**{**changes, "ema": None}))
    assert without and without.state < foretold.state - foretold.weights / 2, "the state that is here is another's"
    average = load_file(state.folder / "ema.safetensors")
    assert average.keys() == load_file(state.weights).keys()


class OfTwo(Team):
    """One of two processes: what the leader spreads is handed over in this one."""

    spread_by_leader: ClassVar[list[torch.Tensor]] = []

    def begin(self, work: dict[str, Any]) -> None:
        self.work = work

    def orders(self) -> Iterator[Order]:
        yield from (Order(Task.BEGIN), Order(Task.END))

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        if self.is_leader:
            self.spread_by_leader[:] = [tensor.clone() for tensor in tensors]
        else:
            for tensor, leaders in zip(tensors, self.spread_by_leader, strict=True):
                tensor.data.copy_(leaders)


def test_another_process_begins_with_the_leaders(workspace: Workspace) -> None:
    """Not with an average of its own, which would count for a part of the eval split."""
    params = make_params(**GOOD)
    run, fresh = make_run(workspace, params), make_run(workspace, params)
    for _ in range(2):
        run.take_step()
    leader, other = run.share, Share(fresh.inputs, OfTwo(1, 2, 0, None))
    leader.team = OfTwo(0, 2, 0, None)
    leader.begin()
    other.follow(leader.team.work)
    assert leader.ema and other.ema
    assert all(map(torch.equal, leader.ema.tensors, other.ema.tensors))
    assert all(map(torch.equal, leader.gpt.parameters(), other.gpt.parameters()))


def test_patience_is_with_the_better_of_both(workspace: Workspace) -> None:
    """The average gets better at every evaluation while the weights get worse, or fail."""
    rules = make_params(epochs=9, patience=1).train_phase1
    rows = [
        {"step": step, "epoch": step, "eval/mel_ce": 4.0 + step, "eval_ema/mel_ce": 4.0 - step / 10}
        for step in range(4)
    ]
    assert ending(rows, rules) is None
    assert ending([{**row, "eval/mel_ce": math.nan} for row in rows], rules) is None
    assert ending([{**row, "eval_ema/mel_ce": 9.0} for row in rows], rules) is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram, precision: str) -> None:
    calls = step_calls(mini_gpt, conditioning_mel, 1, ema=0.99, precision=precision)
    assert calls.keys() & REFUSED == set()
    assert calls.keys() & WAITING == set()
    assert any("lerp" in str(name) for name in calls)
