"""The best weights are never lost on the way back to where they were: another time may not get there."""

from typing import Any

import pytest
from damage import flip_byte
from making.params import make_params
from stored import bests, steps
from workbench import Killed, interrupt, outcome, store_of, train

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import discard, read_json
from xtts_finetune.core.layout import Workspace

pytestmark = pytest.mark.usefixtures("short_prompts")


def test_the_best_of_a_state_s_time_stays_as_long_as_the_state(workspace: Workspace) -> None:
    interrupt(workspace, 3)
    assert steps(store_of(workspace)) == [2, 3]
    assert bests(store_of(workspace)) == [0, 3]
    flip_byte(store_of(workspace).states()[-1].folder / "optimizer.safetensors")
    interrupt(workspace, 4)  # from state 2, whose best is that of step 0
    interrupt(workspace, 5)
    assert bests(store_of(workspace)) == [3], "both states are of its time now"


def test_a_later_best_stays_until_the_replay_has_passed_it(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    """Its state had no room: the run goes on from an earlier one."""
    interrupt(workspace, 3)
    store = store_of(workspace)
    discard(store.states()[-1].folder)
    store.prune()
    assert bests(store_of(workspace)) == [0, 3]
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
    assert bests(store_of(workspace)) == [6]


def test_an_earlier_best_on_the_way_does_not_replace_a_later_one(workspace: Workspace) -> None:
    interrupt(workspace, 3)
    store = store_of(workspace)
    earlier = store.states()[0]
    discard(store.states()[-1].folder)
    store.publish_best(earlier)
    assert bests(store_of(workspace)) == [0, 2, 3]
    store.prune()
    assert bests(store_of(workspace)) == [0, 2, 3]


def test_a_replay_that_comes_out_otherwise_has_the_best_of_before(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under newer code: what was better then is not better now."""
    from xtts_finetune.training import loss

    interrupt(workspace, 3)
    store = store_of(workspace)
    flip_byte(store.states()[-1].folder / "optimizer.safetensors")
    monkeypatch.setattr(loss, "evaluate", lambda *_: loss.TokenSums(mel=99.0, mel_tokens=1, text=1.0, text_tokens=1))
    train(workspace, make_params())
    figures = read_json(workspace.metrics("phase1"))
    assert (figures["step"], figures["last_step"]) == (0, 6)
    assert bests(store_of(workspace)) == [0]
    best = store.best()
    assert best is not None
    assert best.damage() is None


def test_killed_before_the_best_of_before_goes(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    def die(store: CheckpointStore) -> None:
        if store.best(3):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "_prune_bests", die)
        with pytest.raises(Killed):
            train(workspace, make_params())
    assert bests(store_of(workspace)) == [0, 3]
    assert all(Checkpoint.damage(best) is None for best in store_of(workspace).bests())
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted


def test_where_all_is_damaged_nothing_starts_over_unasked(workspace: Workspace) -> None:
    """One flipped bit suffices where newest state and best are one file: hours of training may yet be mended."""
    interrupt(workspace, 3)
    store = store_of(workspace)
    for each in (*store.states(), *store.bests()):
        flip_byte(each.folder / "manifest.json", at=-40)
    before = [each.step for each in store.states()]
    with pytest.raises(UserError, match="no state can be resumed from: what there is, up to step 3, is damaged"):
        train(workspace, make_params())
    assert [each.step for each in store.states()] == before


def test_damage_before_the_first_step_costs_nothing(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    interrupt(workspace, 1)
    discard(store_of(workspace).states()[-1].folder)
    for each in (*store_of(workspace).states(), *store_of(workspace).bests()):
        flip_byte(each.folder / "model.safetensors")
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
