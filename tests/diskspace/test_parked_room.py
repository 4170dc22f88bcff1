"""Room for a run beside others: what counts as its own, and what to type where it does not fit."""

import os
import shutil
from typing import Any

import pytest
from leftovers import half
from making.done_runs import done
from making.params import of_the_real_model
from making.prepared import describe_base
from making.project import PROJECT

from xtts_finetune.checkpoints.identity import Record, identity_of
from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.checkpoints.parking import park, parked
from xtts_finetune.core.disk import free_bytes
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.ahead import is_done
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.diskspace.parked import delete_parked, parked_runs
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.preflight import preflight
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.dvcio.cache import Cache

HELD = 3_000_000  # bytes of a run's state


def with_lr(lr: float) -> Params:
    """Of phase 1."""
    return of_the_real_model(phases=["phase1"], lr=lr)


def begin(workspace: Workspace, lr: float, **done: Any) -> str:
    """A run with a state, as if it was trained with this learning rate; its key."""
    identity = identity_of(workspace, with_lr(lr), "phase1")
    assert identity is not None
    state = workspace.work("phase1") / "step-00000200"
    state.mkdir(parents=True)
    write_json(state / "state.json", {**Record(identity).to_json(), "position": {"step": 200, "best_mel_ce": 4.0}})
    (state / "model.safetensors").write_bytes(os.urandom(HELD))
    write_json(state / "manifest.json", {"files": {}})
    if done:
        write_json(workspace.work("phase1") / "DONE", {**Record(identity).to_json(), **done})
    return identity.key


def needed(workspace: Workspace, lr: float) -> int:
    [demand] = Budget(workspace, with_lr(lr), Cache(workspace)).peak("phase1")
    return demand.needed


def test_what_another_run_holds_stays_held(workspace: Workspace) -> None:
    before = needed(workspace, 1e-5)
    begin(workspace, 1e-5)
    assert needed(workspace, 1e-5) == pytest.approx(before - HELD, abs=50_000)
    assert needed(workspace, 5e-6) == before


def test_what_is_parked_of_the_run_is_its_own(workspace: Workspace) -> None:
    before = needed(workspace, 1e-5)
    key = begin(workspace, 1e-5)
    park(workspace, "phase1", key)
    begin(workspace, 5e-6)
    assert needed(workspace, 1e-5) == pytest.approx(before - HELD, abs=50_000)


def test_a_done_run_is_done_for_its_own_parameters(workspace: Workspace) -> None:
    begin(workspace, 1e-5, **done(with_lr(1e-5)))
    assert is_done(workspace, with_lr(1e-5), "phase1")
    assert not is_done(workspace, with_lr(5e-6), "phase1")


def test_a_done_run_that_is_to_go_on_is_not_done(workspace: Workspace) -> None:
    """More epochs: as many states as ever are to be written."""
    params = with_lr(1e-5)
    begin(workspace, 1e-5, **done(params))
    longer = params.train_phase1.model_copy(update={"epochs": params.train_phase1.epochs + 1})
    assert not is_done(workspace, params.model_copy(update={"train_phase1": longer}), "phase1")


def test_a_run_that_does_not_fit_beside_others_says_how_to_delete_each(workspace: Workspace) -> None:
    first = begin(workspace, 1e-5)
    park(workspace, "phase1", first)
    second = begin(workspace, 5e-6)
    # 28 bytes a parameter and 100 MB for small things: a little more than there is
    describe_base(workspace, (free_bytes(workspace.root) - 100_000_000) // 28 + 1_000_000)
    with pytest.raises(UserError, match="phase1 does not fit on the disk") as refused:
        preflight(workspace, with_lr(1e-6), "phase1")
    said = " ".join(str(refused.value).split())
    for key in (first, second):
        assert f"xtts-finetune clean --parked {key} --yes frees 3" in said
    assert {run.key for run in parked(workspace)} == {first, second}, "nothing was deleted unasked"
    for key in (first, second):
        delete_parked(workspace, key)
    describe_base(workspace, 1_000_000)
    preflight(workspace, with_lr(1e-6), "phase1")


def test_what_a_killed_save_left_is_cleared_before_it_is_refused(workspace: Workspace) -> None:
    begin(workspace, 1e-5)
    left = half(workspace.work("phase1") / "step-00000400")
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(HELD))
    describe_base(workspace, 10**13)
    with locked(workspace.work("phase1")):  # a trainer's own
        preflight(workspace, with_lr(1e-5), "phase1")
    assert left.exists()
    with pytest.raises(UserError, match="does not fit"):
        preflight(workspace, with_lr(1e-5), "phase1")
    assert not left.exists()
    assert (workspace.work("phase1") / "step-00000200").exists()


def test_a_run_in_the_place_of_another_is_only_its_keys_to_delete(workspace: Workspace) -> None:
    """It was stopped, its parameters were set back, and DVC has all of what they ask for: no stage parks it."""
    shutil.copy(PROJECT / "presets" / "xtts_v2.yaml", workspace.params)
    key = begin(workspace, 3e-5)
    plan = make_plan(workspace, Request("best_only", force=True))
    assert [each for item in plan.items for each in item.paths if each.is_relative_to(workspace.work("phase1"))] == []
    assert f"parked phase1 {key} at step 200, best Mel CE 4.000, lr 3e-05" in [kept.what for kept in plan.kept]
    assert "gone, 3" in delete_parked(workspace, key)
    assert not workspace.work("phase1").exists()
    begin(workspace, load_params(workspace.params).train_phase1.lr)
    assert parked_runs(workspace) == [], "that one is asked for"


def test_two_runs_of_one_key_are_told_apart(workspace: Workspace) -> None:
    shutil.copy(PROJECT / "presets" / "xtts_v2.yaml", workspace.params)
    park(workspace, "phase1", key := begin(workspace, 3e-5))
    begin(workspace, 3e-5)
    assert [run.key for run in parked_runs(workspace)] == [f"{key}-2", key]
    delete_parked(workspace, key)
    assert workspace.work("phase1").exists()
    assert parked(workspace) == []


def test_where_none_is_parked_none_is_to_be_chosen(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="no run is parked: one is when a setting") as refused:
        delete_parked(workspace, "0" * 16)
    assert "choose one" not in str(refused.value)


@pytest.mark.parametrize("damaged", ["features.json", "base/base.json"])
def test_damage_to_what_prepare_left_is_not_for_clean_to_say(workspace: Workspace, damaged: str) -> None:
    shutil.copy(PROJECT / "presets" / "xtts_v2.yaml", workspace.params)
    begin(workspace, 3e-5)
    (workspace.prepared / damaged).write_text("")
    assert parked_runs(workspace) == []
