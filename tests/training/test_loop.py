"""One step, one evaluation, and why a run ends."""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making.batches import collated
from making.params import make_params
from torch import Tensor
from workbench import assert_stops_change_nothing, make_run, outcome, rows_of, stop_of, train

from xtts_finetune.checkpoints.identity import Record, prepared_here
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.deadline import UNTIL
from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.errors import Stopped, UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import BASE_INFO, MODEL_CARD, PHASES, Workspace
from xtts_finetune.data.batches import alike, eval_groups, voice_prompts
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.tracking.curve import as_text
from xtts_finetune.training import loss, step
from xtts_finetune.training.interrupts import MadeWay, Newcomer, StopRequest
from xtts_finetune.training.loop import fit
from xtts_finetune.training.packing import MicroBatch
from xtts_finetune.training.phases import Job, summary
from xtts_finetune.training.run import MAX_SKIPPED, Run
from xtts_finetune.training.share import Evaluated, Share

pytestmark = pytest.mark.usefixtures("short_prompts")
FOUR = (0, 1, 2, 3)  # clips


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.gpt.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def one_step(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, batches: Sequence[Sequence[int]], **changes: Any
) -> Run:
    """A step over these batches, with nothing random in it: no dropout, the evaluation's conditioning slices."""
    with monkeypatch.context() as patch:
        patch.setattr("xtts_finetune.data.batches.conditioning_length", lambda *_: 6_000)  # whatever the neighbours
        patch.setattr("xtts_finetune.training.share.voice_prompts", lambda samples, _: voice_prompts(samples, None))
        patch.setattr(
            "xtts_finetune.training.plan.epoch_batches", lambda *_: [np.array(batch, np.int64) for batch in batches]
        )
        run = make_run(workspace, make_params(accumulate=len(batches), warmup_steps=0, **changes))
        run.gpt.eval()
        run.take_step()
    return run


def gradients(run: Run) -> list[Tensor]:
    """Of the first step, as the optimiser remembers them (× 1 − β₁)."""
    return [state["exp_avg"] for state in run.optimizer.state.values()]


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize("batches", [[(0, 1), (2, 3)], [(0,), (1, 2, 3)], [(0,), (1,), (2,), (3,)]])
def test_accumulation_is_one_large_batch(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, batches: list[tuple[int, ...]], mask_prompt: bool
) -> None:
    whole = one_step(workspace, monkeypatch, [FOUR], mask_prompt=mask_prompt)
    parts = one_step(workspace, monkeypatch, batches, mask_prompt=mask_prompt)
    reader = FeatureReader(workspace.prepared, "train")
    counts = [reader.samples[list(batch)].sum() for batch in batches]
    assert len(set(counts)) == len(counts)  # so that a mean of the batches' means would be wrong
    for name in ("train/mel_ce", "train/text_ce", "train/loss", "train/grad_norm"):
        assert parts.curve.rows[-1][name] == pytest.approx(whole.curve.rows[-1][name], rel=1e-5)
    for one, other in zip(gradients(parts), gradients(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_train_figures_are_means_over_tokens(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a step over its batches, those of an evaluation's row over the steps since the one before."""
    run = make_run(workspace, make_params())
    seen: list[tuple[float, int]] = []
    real = step.losses

    def spy(gpt: Any, mel: Any, micro: MicroBatch, settings: Any) -> Tensor:
        sums = real(gpt, mel, micro, settings)
        seen.append((sums[0].item(), micro.targets.mel))
        return sums

    monkeypatch.setattr(step, "losses", spy)
    run.take_step()
    assert len(seen) == 2
    assert run.curve.rows[-1]["train/mel_ce"] == pytest.approx(sum(s for s, _ in seen) / sum(n for _, n in seen))
    run.take_step()
    assert len(seen) == 4
    mean = sum(s for s, _ in seen) / sum(n for _, n in seen)
    run.evaluate()
    assert run.curve.rows[-1]["mean/mel_ce"] == pytest.approx(mean)


@pytest.mark.parametrize("size", [1, 2])
def test_evaluation_does_not_depend_on_the_batches(workspace: Workspace, size: int) -> None:
    run = make_run(workspace, make_params())

    def measured(size: int) -> loss.TokenSums:
        groups = eval_groups(run.inputs.eval, size)
        clips = (collated(run.inputs.eval, group) for group in groups)
        return loss.evaluate(run.gpt, run.share.conditioning_mel, clips)

    whole, parts = measured(3), measured(size)
    assert (parts.mel_tokens, parts.text_tokens) == (whole.mel_tokens, whole.text_tokens)
    assert parts.mel_ce == pytest.approx(whole.mel_ce, rel=1e-5)
    assert parts.text_ce == pytest.approx(whole.text_ce, rel=1e-5)
    assert run.gpt.training  # evaluated without dropout, and then back to training
    assert measured(3) == whole


def test_an_evaluation_changes_nothing(workspace: Workspace) -> None:
    with_one, without = make_run(workspace, make_params()), make_run(workspace, make_params())
    with_one.evaluate()
    for run in (with_one, without):
        run.take_step()
    assert same(weights(with_one), weights(without))


def test_train_clips_are_measured_as_the_eval_split_is(workspace: Workspace) -> None:
    """As many, as long, without dropout and by the same weights: so both can be held beside each other."""
    run = make_run(workspace, make_params(dropout=0.5))
    train, held = run.inputs.train, run.inputs.eval
    chosen = alike(train, held)
    assert len(set(chosen.tolist())) == len(held) < len(train)
    run.evaluate()
    clips = [collated(train, group) for group in eval_groups(train, 1, chosen)]
    again = loss.evaluate(run.gpt, run.share.conditioning_mel, clips)
    assert run.curve.rows[-1]["eval_train/mel_ce"] == pytest.approx(again.mel_ce, rel=1e-5)
    assert run.curve.rows[-1]["eval_train/mel_ce"] != run.curve.rows[-1]["eval/mel_ce"]


def test_what_is_logged(workspace: Workspace) -> None:
    run = make_run(workspace, make_params())
    fit(run, None, stop_of(run))
    rows = run.tracker.rows  # type: ignore[attr-defined]
    evaluated = [step for step, row in rows if "eval/mel_ce" in row]
    assert evaluated == [0, 3, 6]
    saved = [(step, row["disk/saves_skipped"]) for step, row in rows if "disk/saves_skipped" in row]
    assert saved == [(0, 0), (2, 0), (3, 0), (4, 0), (6, 0)]
    assert all(row["disk/free_bytes"] > 0 for _, row in rows if "disk/free_bytes" in row)
    held = [row["disk/checkpoint_bytes"] for _, row in rows if "disk/checkpoint_bytes" in row]
    assert held[-1] == pytest.approx(held_bytes(files_below(run.store.folder)), rel=0.01)
    names = {name for _, row in rows for name in row if not name.startswith("disk/")}
    train_names = {"train/mel_ce", "train/text_ce", "train/loss", "train/lr", "train/grad_norm"}
    measured = {f"{split}/{name}" for split in ("eval", "eval_train") for name in ("mel_ce", "text_ce", "loss")}
    assert names == train_names | {"train/tokens_per_second"} | measured
    for _, row in rows:
        for split in ("train", "eval"):
            if f"{split}/loss" in row:
                loss = 0.01 * row[f"{split}/text_ce"] + row[f"{split}/mel_ce"]
                assert row[f"{split}/loss"] == pytest.approx(loss)
    assert [row["train/lr"] for _, row in rows if "train/lr" in row][:3] == [0.0005, 0.001, 0.001]


def test_for_a_newcomer_no_step_is_lost_on_a_full_disk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put off at every step of which no state has room, and let in at the first that has."""
    run, put_off = make_run(workspace, make_params()), list[int]()
    save = CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore, "save", lambda store, step, *rest: step not in (2, 3) and save(store, step, *rest)
    )
    newcomer = Newcomer(lambda: run.position.step >= 2, lambda: put_off.append(run.position.step))
    with pytest.raises(MadeWay, match="phase1 is saved at step 4"):
        fit(run, None, StopRequest(newcomer))
    assert put_off == [2, 3]


def poisoned(run: Run, steps: Sequence[int]) -> Run:
    """Make the gradient of these steps (from 0) NaN."""
    run.gpt.mel_head.weight.register_hook(lambda grad: grad * (math.nan if run.position.step in steps else 1))
    return run


def test_a_step_without_a_finite_gradient_is_skipped(workspace: Workspace) -> None:
    run = poisoned(make_run(workspace, make_params()), [1, 2])
    run.take_step()
    before = weights(run)
    moments = [value.clone() for value in gradients(run)]
    for skipped in (1, 2):
        run.take_step()
        assert (run.position.step, run.position.skipped) == (1 + skipped, skipped)
        assert math.isnan(run.curve.rows[-1]["train/grad_norm"])
        assert same(weights(run), before)
    assert all(map(torch.equal, gradients(run), moments))
    run.position.epoch, run.position.epoch_step = 1, 0
    run.take_step()
    assert run.position.skipped == 0
    assert not same(weights(run), before)


def test_a_skipped_step_is_counted_and_leaves_the_means_finite(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(workspace, make_params(save_every_steps=1))
    loss_of = step.losses

    def poisoned_loss(*arguments: Any) -> Tensor:
        return loss_of(*arguments) * (math.nan if run.position.step in (1, 4) else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "losses", poisoned_loss)
        end = fit(run, None, stop_of(run))
    trained = [row for row in run.curve.rows if "train/loss" in row]
    assert [row.get("train/skipped_steps") for row in trained] == [None, 1, None, None, 2, None]
    assert math.isnan(trained[1]["train/mel_ce"]), "what happened is not hidden"
    means = [row["mean/mel_ce"] for row in run.curve.rows if "mean/mel_ce" in row]
    assert means[0] == pytest.approx((trained[0]["train/mel_ce"] + trained[2]["train/mel_ce"]) / 2, rel=0.05)
    assert all(map(math.isfinite, means))
    assert run.position.skipped_steps == 2
    assert capsys.readouterr().out.count("loss or gradient is not finite; it is skipped") == 1
    assert summary(run, Record(Job(workspace, make_params(), "phase1").identity), end)["figures"]["skipped_steps"] == 2


@pytest.mark.parametrize("log_every", [2, 4, 100])
def test_how_often_figures_are_read_changes_none(workspace: Workspace, tmp_path: Path, log_every: int) -> None:
    other = Workspace(tmp_path / "other")
    shutil.copytree(workspace.root, other.root)
    each = poisoned(make_run(workspace, make_params()), [1])
    some = poisoned(make_run(other, make_params(), log_every=log_every), [1])
    for run in (each, some):
        fit(run, None, stop_of(run))
    assert as_text(some.curve.rows) == as_text(each.curve.rows)
    assert some.position == each.position
    assert same(weights(some), weights(each))


def test_divergence_ends_the_run_and_keeps_the_state_before(workspace: Workspace) -> None:
    params = make_params(save_every_steps=1, keep_last=1, epochs=5)
    run = poisoned(make_run(workspace, params), range(2, 100))
    with pytest.raises(UserError) as error:
        fit(run, None, stop_of(run))
    run.finish_saving()  # as the stage does whatever happens
    assert f"not finite in {MAX_SKIPPED} steps in a row, up to step {2 + MAX_SKIPPED}" in str(error.value)
    assert "lower train_phase1.lr" in str(error.value)
    again = make_run(workspace, params)
    assert again.resume(again.store.states()[-1])
    assert again.position.skipped == MAX_SKIPPED - 1  # and would end at once, were nothing changed
    reference = make_run(workspace, params)
    reference.take_step()
    reference.take_step()
    assert same(weights(again), weights(reference))


def come_to(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """Evaluations give these Mel CE, one after the other."""
    given = (loss.TokenSums(mel=figure, mel_tokens=1, text=2, text_tokens=1) for figure in figures)

    def evaluate(_: Share) -> Evaluated:
        found = next(given)
        return Evaluated(found, None, found)

    monkeypatch.setattr(Share, "evaluate", evaluate)


def test_the_target_must_hold(workspace: Workspace) -> None:
    train(workspace, make_params(target_mel_ce=100.0, epochs=3))
    assert read_json(workspace.metrics("phase1"))["stopped"] == "target Mel CE 100.0 reached and held"
    assert [row["step"] for row in rows_of(workspace)][-1] == 3  # reached before the first epoch, held after it


def test_a_target_reached_once_is_not_held(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    come_to(monkeypatch, 9.0, 2.0, 3.0, 2.0, 2.0, 1.0)
    train(workspace, make_params(target_mel_ce=2.5, epochs=9, batch_size=9))
    figures = read_json(workspace.metrics("phase1"))
    assert figures["epochs"] == 4
    assert (figures["step"], figures["eval"]["mel_ce"]) == (1, 2.0)  # the first of equals is the best


def test_patience(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    come_to(monkeypatch, 5.0, 4.0, 4.5, 3.0, math.nan, 3.0, 1.0)
    params = make_params(patience=2, epochs=9, batch_size=9, save_every_steps=1)
    train(workspace, params)
    figures = read_json(workspace.metrics("phase1"))
    assert figures["stopped"] == "no better eval Mel CE in 2 evaluations"
    assert (figures["epochs"], figures["step"], figures["eval"]["mel_ce"]) == (5, 3, 3.0)
    assert figures["eval"]["text_ce_weighted"] == pytest.approx(0.02)
    # What is exported is the model of step 3, not the last.
    last = outcome(workspace)["last state"]["model.safetensors"]
    assert read_json(workspace.model("phase1") / "model.json")["sha256"] != last


def test_it_is_evaluated_between_the_ends_of_epochs(workspace: Workspace, tmp_path: Path) -> None:
    """3 steps an epoch; each evaluation is saved, and none changes what is trained."""
    without = Workspace(tmp_path / "without")
    shutil.copytree(workspace.root, without.root)
    often = make_params(evaluate_every_steps=2, save_every_steps=9)
    train(without, make_params(save_every_steps=9))
    train(workspace, often)
    seen = [(row["step"], row["epoch"]) for row in rows_of(workspace) if "eval/mel_ce" in row]
    assert seen == [(0, 0), (2, 0), (3, 1), (4, 1), (6, 2)]
    steps_of = [[row for row in rows_of(each) if "train/mel_ce" in row] for each in (workspace, without)]
    assert steps_of[0] == steps_of[1]
    tensors = [outcome(each)["last state"]["model.safetensors"] for each in (workspace, without)]
    assert tensors[0] == tensors[1]
    means = [row["mean/mel_ce"] for row in rows_of(workspace) if row["step"] == 4 and "mean/mel_ce" in row]
    [step] = [row for row in steps_of[0] if row["step"] == 4]
    assert means == [step["train/mel_ce"]], "since the evaluation before, at step 3"


def test_stopped_beside_such_an_evaluation_it_ends_the_same(workspace: Workspace, tmp_path: Path) -> None:
    whole = Workspace(tmp_path / "whole")
    assert_stops_change_nothing(workspace, whole, evaluate_every_steps=2)


def test_its_time_is_up(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is finished and saved, and another process goes on to the same end."""
    whole = Workspace(tmp_path / "whole")
    shutil.copytree(workspace.root, whole.root)
    train(whole, make_params())
    run = make_run(workspace, make_params())

    def log(step: int, metrics: dict[str, float]) -> None:
        if step == 4 and "train/loss" in metrics:
            monkeypatch.setenv(UNTIL, repr(time.time()))

    monkeypatch.setattr(run.tracker, "log", log)
    with pytest.raises(Stopped, match=r"the time that --for gave is up: phase1 is saved at step 4; run dvc repro"):
        fit(run, None, stop_of(run))
    monkeypatch.delenv(UNTIL)
    train(workspace, make_params())
    assert outcome(workspace) == outcome(whole)


def test_a_model_says_what_it_was_trained_with(workspace: Workspace) -> None:
    """Also of phase 2, which begins with another model's weights."""
    base = workspace.prepared / "base" / BASE_INFO
    write_json(base, read_json(base) | {"files": {"config.json": "of its config"}})
    here = prepared_here(workspace)
    assert here.keys() == {"data", "base_files", "base_weights"}
    for phase in PHASES:
        train(workspace, make_params(epochs=1), name=phase)
        assert read_json(workspace.model(phase) / MODEL_CARD)["trained_with"] == here


def test_the_last_clips_of_an_epoch_count(workspace: Workspace) -> None:
    """9 clips in batches of 2, 2 a step: the last step of an epoch has a single clip."""
    run = make_run(workspace, make_params(epochs=1))
    assert len(run.share.plan.epoch(0)) == run.steps == 3
    fit(run, None, stop_of(run))
    assert run.position.epoch == 1


def test_bf16_trains(workspace: Workspace) -> None:
    run = make_run(workspace, make_params(precision="bf16"))
    exact = make_run(workspace, make_params())
    for each in (run, exact):
        each.take_step()
    rough, fine = run.curve.rows[-1]["train/mel_ce"], exact.curve.rows[-1]["train/mel_ce"]
    assert rough != fine
    assert rough == pytest.approx(fine, rel=0.02)
    assert {value.dtype for value in run.gpt.parameters()} == {torch.float32}
