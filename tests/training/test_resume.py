"""A run stopped anywhere and run again ends in the same bytes; damage costs time, never the result."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import cut, flip_byte
from leftovers import half
from making.params import TINY_PHASE, make_params
from safetensors.torch import load_file
from stored import steps
from workbench import (
    Killed,
    assert_stops_change_nothing,
    interrupt,
    make_run,
    outcome,
    rows_of,
    stop_of,
    store_of,
    train,
)

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import Stopped, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.training.loop import fit

pytestmark = pytest.mark.usefixtures("short_prompts")
STEPS = 6  # of `make_params()`: 9 clips, batches of 2, 2 a step, 2 epochs


def test_the_run_is_what_it_is_meant_to_be(uninterrupted: dict[str, Any]) -> None:
    """The other tests of this file compare with it: it must train, improve, and have steps of several kinds."""
    trained = [row for row in uninterrupted["curve"] if "train/loss" in row]
    assert [row["step"] for row in trained] == list(range(1, STEPS + 1))
    evaluated = [row["eval/mel_ce"] for row in uninterrupted["curve"] if "eval/mel_ce" in row]
    assert len(evaluated) == 3
    assert evaluated[2] < evaluated[1] < evaluated[0]
    assert len({row["train/mel_ce"] for row in trained}) == STEPS
    assert uninterrupted["figures"]["stopped"] == "epochs done"


@pytest.mark.parametrize("stops", [[1, 2, 3, 4, 5], [4]], ids=["every step", "once"])
def test_stopped_and_continued_is_as_never_stopped(
    workspace: Workspace, uninterrupted: dict[str, Any], stops: list[int]
) -> None:
    for stop_at in stops:
        interrupt(workspace, stop_at)
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_moments_in_8_bits_go_on_as_exactly(workspace: Workspace, tmp_path: Path) -> None:
    assert_stops_change_nothing(workspace, Workspace(tmp_path / "whole"), optim="adamw8bit")
    moments = load_file(store_of(workspace).states()[-1].folder / "optimizer.safetensors")
    assert torch.uint8 in {moment.dtype for moment in moments.values()}


def test_a_stop_at_the_last_step_is_an_end(workspace: Workspace) -> None:
    train(workspace, make_params(), stop_at=STEPS)
    assert store_of(workspace).done


def test_how_often_states_are_saved_changes_no_result(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    train(workspace, make_params(save_every_steps=100, keep_last=1))
    assert outcome(workspace) == uninterrupted


@pytest.fixture(scope="module")
def stopped_at_5(short_prompts: None, template: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("stopped") / "workspace"
    shutil.copytree(template.root, root)
    store = interrupt(Workspace(root), 5)
    assert steps(store) == [4, 5]
    return Workspace(root)


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: flip_byte(state / "model.safetensors"), "model.safetensors has changed"),
        (lambda state: cut(state / "optimizer.safetensors"), "optimizer.safetensors is missing or cut short"),
        (lambda state: (state / "state.json").unlink(), "state.json is missing"),
        (lambda state: (state / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda state: (state / "manifest.json").unlink(), ""),
    ],
    ids=["flipped byte", "cut short", "file missing", "manifest nonsense", "manifest missing"],
)
def test_a_damaged_state_is_passed_over(
    stopped_at_5: Workspace,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    said: str,
) -> None:
    shutil.copytree(stopped_at_5.root, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    damage(workspace.work("phase1") / "step-00000005")
    train(workspace, make_params())
    heard = capsys.readouterr().out
    assert said in heard
    assert "resuming phase1 after step 4\n" in heard
    assert outcome(workspace) == uninterrupted
    # The damaged one is gone: it must not push a whole one out of those kept.
    assert steps(store_of(workspace)) == [4, 6]
    assert [state.damage() for state in store_of(workspace).states()] == [None, None]


def test_with_only_its_best_left_a_run_asks_before_it_starts_over(
    workspace: Workspace, uninterrupted: dict[str, Any]
) -> None:
    store = interrupt(workspace, 5, keep_last=1)
    assert steps(store) == [5]
    flip_byte(store.states()[0].folder / "optimizer.safetensors")
    with pytest.raises(UserError, match=r"the best weights, of step 3, are whole") as error:
        train(workspace, make_params(keep_last=1))
    assert "best-00000003" in str(error.value)
    assert "rm -r" in str(error.value)
    best = store.best()
    assert best is not None
    assert (steps(store), best.step, best.damage()) == ([5], 3, None), "nothing was deleted"


def test_a_damaged_only_state_does_not_push_out_the_new_ones(
    workspace: Workspace, uninterrupted: dict[str, Any]
) -> None:
    store = interrupt(workspace, 2, keep_last=1)
    assert steps(store) == [2]
    flip_byte(store.states()[0].weights)
    interrupt(workspace, 1, keep_last=1)  # from the beginning: the best was where it starts
    assert steps(store) == [1]
    interrupt(workspace, 2, keep_last=1)
    train(workspace, make_params(keep_last=1))
    assert outcome(workspace) == uninterrupted


def test_a_lost_curve_comes_back_with_its_state(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    store = interrupt(workspace, 5)
    (store.folder / "curve.jsonl").unlink()
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_damage_that_the_best_shares_with_its_state(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    """The weights of a best and of its state are one file: both are replaced when the steps are replayed."""
    store = interrupt(workspace, 3)
    best = store.best()
    assert best is not None
    assert steps(store) == [2, best.step] == [2, 3]
    flip_byte(best.weights)
    assert store.states()[-1].damage()
    interrupt(workspace, 5)
    again = store.best()
    assert again is not None
    assert (again.step, again.damage()) == (3, None)
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


@pytest.mark.parametrize("lose", [lambda best: flip_byte(best.weights), lambda best: shutil.rmtree(best.folder)])
def test_without_its_best_a_run_asks_before_it_starts_over(
    stopped_at_5: Workspace,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    lose: Callable[[Checkpoint], None],
) -> None:
    shutil.copytree(stopped_at_5.root, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    best = store_of(workspace).best()
    assert best is not None
    assert best.step == 3
    lose(best)
    with pytest.raises(UserError, match="the best weights so far are missing or damaged"):
        train(workspace, make_params())
    assert store_of(workspace).states(), "nothing is given up without the user's word"
    shutil.rmtree(workspace.work("phase1"))
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_a_done_phase_with_a_damaged_best_is_not_published(stopped_at_5: Workspace, tmp_path: Path) -> None:
    shutil.copytree(stopped_at_5.root, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    train(workspace, make_params())
    best = store_of(workspace).best()
    assert best is not None
    flip_byte(best.weights)
    with pytest.raises(UserError, match="has changed since it was written") as error:
        train(workspace, make_params())
    assert "rm -r" in str(error.value)


def test_killed_between_a_state_and_its_best(
    workspace: Workspace, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_best = CheckpointStore.publish_best

    def die(store: CheckpointStore, checkpoint: Checkpoint) -> None:
        if checkpoint.step == 3:
            raise Killed
        publish_best(store, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "publish_best", die)
        with pytest.raises(Killed):
            train(workspace, make_params())
    store = store_of(workspace)
    best = store.best()
    assert best is not None
    assert (steps(store)[-1], best.step) == (3, 0)
    run = make_run(workspace, make_params())
    assert run.resume(store.states()[-1])
    best = store.best()
    assert best is not None
    assert best.step == 3
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_killed_while_the_curve_is_written(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    store = interrupt(workspace, 4)
    curve = store.folder / "curve.jsonl"
    with curve.open("ab") as stream:  # rows of steps that no state has, the last one cut, then what a power cut leaves
        stream.write(b'{"step": 5, "epoch": 1, "train/loss": 1.0}\n{"step": 6, "ep\0\0\0\0\n\0\0')
    half(store.folder / "curve.jsonl").write_text("half")
    half(store.folder / "step-00000006").mkdir()
    (half(store.folder / "step-00000006") / "model.safetensors").write_text("half")
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
    assert not list(store.folder.glob(".*"))


@pytest.mark.parametrize("done", [True, False])
def test_more_epochs_extend_a_run(
    workspace: Workspace, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str], done: bool
) -> None:
    if done:
        train(workspace, make_params(epochs=1))
        assert store_of(workspace).done
    else:
        interrupt(workspace, 2, epochs=1)
    train(workspace, make_params())
    assert "not resuming" not in capsys.readouterr().out
    assert outcome(workspace) == uninterrupted


def test_a_done_run_is_published_again_without_training(
    workspace: Workspace, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, make_params())
    shutil.rmtree(workspace.model("phase1"))
    shutil.rmtree(workspace.checkpoints("phase1"))
    with monkeypatch.context() as patch:
        patch.setattr("workbench.fit", None)
        train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_phase_2_goes_on_from_the_best_of_phase_1(workspace: Workspace) -> None:
    train(workspace, make_params())
    first = read_json(workspace.metrics("phase1"))
    with pytest.raises(Stopped):
        train(workspace, make_params(), STEPS + 2, "phase2")
    train(workspace, make_params(), name="phase2")
    rows = rows_of(workspace, "phase2")
    assert rows[0]["step"] == first["last_step"] == STEPS
    assert rows[0]["eval/mel_ce"] == first["eval"]["mel_ce"]
    assert rows[-1]["step"] == 2 * STEPS
    second = read_json(workspace.metrics("phase2"))
    assert second["start"]["mel_ce"] == first["eval"]["mel_ce"]
    assert second["eval"]["mel_ce"] < first["eval"]["mel_ce"]


def test_only_a_finished_step_is_saved(workspace: Workspace) -> None:
    """The bytes of a state do not depend on when it was saved."""
    run = make_run(workspace, make_params(), stop_at=1)
    with pytest.raises(Stopped):
        fit(run, None, stop_of(run))
    state = run.store.states()[-1].state["position"]
    assert (state["step"], state["epoch"], state["epoch_step"]) == (1, 0, 1)
    assert state["train"]["mel_tokens"] > 0
    assert TINY_PHASE.warmup_steps == 2  # so that the rate at resuming is still rising


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_kill_9_at_any_time(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    """A child is killed again and again, at times that differ, until one gets to the end."""
    kills = 0
    for attempt in range(60):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                train(workspace, make_params(save_every_steps=1))
                os._exit(0)
            os._exit(1)
        time.sleep(0.1 + 0.1 * attempt)
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        kills += 1
    assert kills
    assert store_of(workspace).done
    assert outcome(workspace) == uninterrupted
