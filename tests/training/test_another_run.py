"""Changed parameters: another run takes the place of the one before, which is kept and comes back with them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import flip_byte
from making.params import TINY_PHASE, make_params
from stored import steps
from workbench import Killed, interrupt, outcome, rows_of, store_of, train

from xtts_finetune.checkpoints.parking import parked
from xtts_finetune.core.errors import Stopped, UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import FEATURES, Workspace

pytestmark = pytest.mark.usefixtures("short_prompts")
OTHER_LR = 5e-4


def newer_code(monkeypatch: pytest.MonkeyPatch, digest: str = "newer") -> None:
    monkeypatch.setattr("xtts_finetune.checkpoints.identity.code_digest", lambda: digest)


@pytest.mark.parametrize(
    ("before", "changes", "named"),
    [
        ({}, {"lr": 2e-3}, "train_phase1.lr 0.001 → 0.002"),
        ({}, {"optim": "adamw8bit"}, "train_phase1.optim adamw → adamw8bit"),
        (
            {},
            {"batch_size": 3, "mask_prompt": True},
            "train_phase1.batch_size 2 → 3, train_phase1.mask_prompt False → True",
        ),
        ({"schedule": "cosine"}, {"schedule": "cosine", "epochs": 3}, "train_phase1.epochs 2 → 3"),
    ],
    ids=["lr", "optim", "two", "a stretched schedule"],
)
def test_another_run_parks_the_one_before(
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    before: dict[str, Any],
    changes: dict[str, Any],
    named: str,
) -> None:
    interrupt(workspace, 2, **before)
    interrupt(workspace, 1, **changes)
    said = capsys.readouterr().out
    [run] = parked(workspace)
    assert f"another run: {named} changed; the one before, up to step 2, is parked in work/{run.folder.name}/" in said
    assert (run.step, run.params["train_phase1.lr"]) == (2, TINY_PHASE.lr)
    assert steps(store_of(workspace)) == [0, 1]
    assert [row["step"] for row in rows_of(workspace)] == [0, 1]


def test_there_and_back_it_resumes_bit_for_bit(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    interrupt(workspace, 4)
    interrupt(workspace, 2, lr=OTHER_LR)
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
    assert [run.params["train_phase1.lr"] for run in parked(workspace)] == [OTHER_LR]


def test_a_flipped_bit_makes_no_other_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(workspace, 3)
    newest = workspace.work("phase1") / f"step-{steps(store_of(workspace))[-1]:08d}" / "state.json"
    newest.write_text(newest.read_text().replace('"seed": 42', '"seed": 43'))
    train(workspace, make_params())
    assert "resuming phase1 after step 2\n" in capsys.readouterr().out
    assert parked(workspace) == []


def test_a_run_without_a_state_is_parked_for_good(
    workspace: Workspace, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for state in interrupt(workspace, 5).states():
        shutil.rmtree(state.folder)
    interrupt(workspace, 1, lr=OTHER_LR)
    assert "and cannot go on: only its best weights are left" in capsys.readouterr().out
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
    assert sorted(run.goes_on for run in parked(workspace)) == [False, True]


def test_both_runs_are_kept_where_they_alternate(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for step, lr in ((1, TINY_PHASE.lr), (2, OTHER_LR), (3, TINY_PHASE.lr), (4, OTHER_LR), (5, TINY_PHASE.lr)):
        interrupt(workspace, step, lr=lr)
    said = capsys.readouterr().out
    assert [f"resuming phase1 after step {step}\n" in said for step in (1, 2, 3)] == [True] * 3
    assert [(run.step, run.params["train_phase1.lr"]) for run in parked(workspace)] == [(4, OTHER_LR)]


@pytest.mark.parametrize("moment", ["before the first", "between", "after the second"])
def test_killed_while_two_runs_change_places(
    workspace: Workspace, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    interrupt(workspace, 4)
    interrupt(workspace, 2, lr=OTHER_LR)
    rename, renames = os.rename, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal renames
        if "phase1." in f"{source} {target}" and ".tmp" not in f"{source} {target}":
            renames += 1
            if (renames, moment) in ((1, "before the first"), (2, "between")):
                raise Killed
            rename(source, target)
            if (renames, moment) == (2, "after the second"):
                raise Killed
        else:
            rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", dying)
        with pytest.raises(Killed):
            train(workspace, make_params())
    train(workspace, make_params())
    assert outcome(workspace) == uninterrupted
    assert [(run.step, run.params["train_phase1.lr"]) for run in parked(workspace)] == [(2, OTHER_LR)]


def test_another_seed_data_or_base_is_another_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    params = make_params()
    interrupt(workspace, 1)
    with pytest.raises(Stopped):
        train(workspace, params.model_copy(update={"seed": 43}), 1)
    assert "another run: seed 42 → 43 changed" in capsys.readouterr().out
    features = workspace.prepared / FEATURES
    write_json(features, {**read_json(features), "train.audio.i16": "0"})
    with pytest.raises(Stopped):
        train(workspace, params.model_copy(update={"seed": 43}), 1)
    assert "another run: data changed" in capsys.readouterr().out
    info = read_json(workspace.prepared / "base" / "base.json")
    write_json(workspace.prepared / "base" / "base.json", {**info, "gpt": {**info["gpt"], "sha256": "0"}})
    with pytest.raises(UserError, match="is not the file that prepare saw"):
        train(workspace, params.model_copy(update={"seed": 43}), 1)
    assert "another run: initial_weights changed" in capsys.readouterr().out
    assert len(parked(workspace)) == 3


def test_newer_code_does_not_pass_for_a_done_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_params(epochs=1)
    train(workspace, params)
    newer_code(monkeypatch)
    with pytest.raises(Stopped):
        train(workspace, params, 1)
    assert "another run: the code changed" in capsys.readouterr().out
    [run] = parked(workspace)
    assert run.step == 3
    assert (run.folder / "DONE").exists()


def test_an_unfinished_run_goes_on_under_newer_code_and_says_from_where(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(workspace, 1)
    begun = store_of(workspace).states()[-1].state
    assert begun["newer_code"] == []
    newer_code(monkeypatch)
    interrupt(workspace, 2)
    newer_code(monkeypatch, "newest")
    train(workspace, make_params())
    last = read_json(workspace.work("phase1") / "DONE")
    assert (last["key"], last["code"]) == (begun["key"], begun["code"])
    assert last["newer_code"] == [[1, "newer"], [2, "newest"]]
    assert parked(workspace) == []


@pytest.mark.parametrize("done", [True, False])
def test_fewer_epochs_end_a_run_where_they_would_have(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """It went on, but its best is of before: the result is exactly that of a run that ended there."""
    patience = Workspace(tmp_path / "whole")
    shutil.copytree(workspace.root, patience.root)
    worse = {"lr": 1.0, "warmup_steps": 0}  # no evaluation is better than the first
    train(patience, make_params(epochs=1, **worse))
    if done:
        train(workspace, make_params(**worse))
    else:
        interrupt(workspace, 5, **worse)
    train(workspace, make_params(epochs=1, **worse))
    figures = read_json(workspace.metrics("phase1"))
    assert (figures["last_step"], figures["epochs"], figures["stopped"]) == (3, 1, "epochs done")
    for path in ("models/phase1/model.json", "models/phase1/model.safetensors", "reports/curve_phase1.csv"):
        assert (workspace.root / path).read_bytes() == (patience.root / path).read_bytes()
    assert parked(workspace) == []
    train(workspace, make_params(**worse))  # and back
    assert read_json(workspace.metrics("phase1"))["last_step"] == 6


@pytest.mark.parametrize("is_kept", [True, False])
def test_where_the_best_up_to_there_is_gone_it_is_trained_anew(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_kept: bool
) -> None:
    whole = Workspace(tmp_path / "whole")
    shutil.copytree(workspace.root, whole.root)
    train(whole, make_params(epochs=1))
    train(workspace, make_params())
    train(workspace, make_params(epochs=1), is_kept=is_kept)
    said = capsys.readouterr().out
    assert (
        "epochs, target_mel_ce, patience, stop_when_overfitting now end phase1 before the step of its best weights; the"
        in said
    )
    assert outcome(workspace) == outcome(whole)
    assert [run.step for run in parked(workspace)] == ([] if is_kept else [6])


@pytest.mark.parametrize(
    ("rules", "reason"),
    [({"target_mel_ce": 99.0}, "target Mel CE 99.0 reached and held"), ({"patience": 1}, "epochs done")],
)
def test_a_done_run_is_ended_by_the_rules_of_today(
    workspace: Workspace, rules: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(workspace, make_params(epochs=1, **rules))
    assert read_json(workspace.metrics("phase1"))["stopped"] == reason
    assert "resuming" not in capsys.readouterr().out
    train(workspace, make_params(epochs=2))
    assert read_json(workspace.metrics("phase1"))["stopped"] == "epochs done"
    assert read_json(workspace.metrics("phase1"))["epochs"] == 2


def test_a_done_run_without_a_state_is_not_reopened(workspace: Workspace) -> None:
    train(workspace, make_params(epochs=1))
    for state in store_of(workspace).states():
        flip_byte(state.folder / "optimizer.safetensors")
    with pytest.raises(UserError, match="no state can be resumed from"):
        train(workspace, make_params())
    train(workspace, make_params(epochs=1))  # as it was: nothing is lost


def test_a_run_that_dvc_has_needs_no_parking(workspace: Workspace) -> None:
    train(workspace, make_params(epochs=1))
    interrupt_kept = make_params(lr=OTHER_LR)
    with pytest.raises(Stopped):
        train(workspace, interrupt_kept, 1, is_kept=True)
    assert parked(workspace) == []


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_unfinished_run_is_always_parked(workspace: Workspace, is_kept: bool) -> None:
    interrupt(workspace, 2)
    with pytest.raises(Stopped):
        train(workspace, make_params(lr=OTHER_LR), 1, is_kept=is_kept)
    assert [run.step for run in parked(workspace)] == [2]


def test_a_diverging_run_is_kept_and_a_lower_rate_starts_anew(workspace: Workspace, tmp_path: Path) -> None:
    """What the message says is what happens."""
    whole = Workspace(tmp_path / "whole")
    shutil.copytree(workspace.root, whole.root)
    train(whole, make_params(epochs=3, lr=OTHER_LR))
    diverging = make_params(epochs=3, lr=1e30, warmup_steps=0, save_every_steps=1)
    with pytest.raises(UserError, match="training diverged") as error:
        train(workspace, diverging)
    assert "dvc repro then starts phase1 from its beginning; what was trained is kept beside it" in str(error.value)
    kept = steps(store_of(workspace))
    with pytest.raises(UserError, match="training diverged"):  # unchanged, it fails as before: with nothing lost
        train(workspace, diverging)
    assert steps(store_of(workspace)) == kept
    train(workspace, make_params(epochs=3, lr=OTHER_LR))
    assert outcome(workspace) == outcome(whole)
    assert [(run.step, run.params["train_phase1.lr"]) for run in parked(workspace)] == [(kept[-1], 1e30)]
