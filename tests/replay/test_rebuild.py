"""`xtts-finetune rebuild`: what was pruned or cleaned away is trained again, and is the same to the last bit."""

import json
import random
import shutil
from collections.abc import Callable
from math import nextafter
from pathlib import Path
from typing import Any

import pytest
from damage import flip_byte
from keeping import KEEPING_ALL, copied, kept_all, params_of, write_params
from making.params import LORA, make_params
from workbench import train

from xtts_finetune.core.errors import Stopped, UserError
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import DONE, MANIFEST, MODEL_CARD, PHASES, PhaseName, Workspace, checkpoint_name
from xtts_finetune.export.here import checkpoints
from xtts_finetune.replay.rebuild import rebuild_lines
from xtts_finetune.replay.replaying import one_at_a_time

pytestmark = pytest.mark.usefixtures("short_prompts")
STEPS = 15  # of a phase


def rebuild(at: Workspace, step: int) -> str:
    return "\n".join(rebuild_lines(at, step))


def keep(at: Workspace, phase: PhaseName, *steps: int) -> None:
    """Let all other states of a phase go, as retention and `clean` do."""
    for folder in at.checkpoints(phase).glob("step-*"):
        if folder.name not in {checkpoint_name("step", step) for step in steps}:
            shutil.rmtree(folder)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir()}


def tensors(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if name.endswith(".safetensors")}


def change_curve(at: Workspace, change: Callable[[dict[str, Any]], dict[str, Any]], at_step: int) -> None:
    """Of phase 1, as it is recorded, the rows of a step."""
    done = at.checkpoints("phase1") / DONE
    content = read_json(done)
    rows = [json.loads(line) for line in content["curve"].splitlines()]
    changed = [change(row) if row["step"] == at_step else row for row in rows]
    assert changed != rows
    done.unlink()
    write_json(done, {**content, "curve": "".join(json.dumps(row) + "\n" for row in changed)})


def phase_of(step: int) -> PhaseName:
    return "phase1" if step <= STEPS else "phase2"


def rebuilt(at: Workspace, step: int) -> Path:
    """Where it lies, of whichever run."""
    places = at.rebuilding.glob(f"{phase_of(step)}.*/{checkpoint_name('step', step)}")
    return next(places, at.rebuilding / "none")


def original(trained: Workspace, step: int) -> Path:
    return trained.checkpoints(phase_of(step)) / checkpoint_name("step", step)


def test_twenty_random_steps(trained: Workspace, here: Workspace) -> None:
    """Every file of a state, also where the run stands, its curve and its manifest."""
    keep(here, "phase1", 6)
    keep(here, "phase2", 2 * STEPS)
    chance = random.Random(1)
    for step in chance.sample([step for step in range(2 * STEPS) if step not in (6, STEPS)], 20):
        said = rebuild(here, step)
        assert "as recorded, to the last bit" in said
        assert digests(rebuilt(here, step)) == digests(original(trained, step))


def test_it_starts_from_the_nearest_state_that_holds(
    trained: Workspace, here: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(here, "phase1", 3, 6, 12)
    assert "5 steps again from the state of step 6" in rebuild(here, 11)
    flip_byte(here.checkpoints("phase1") / checkpoint_name("step", 6) / "optimizer.safetensors")
    assert "4 steps again from the state of step 3" in rebuild(here, 7)
    assert "passing over" in capsys.readouterr().out
    assert digests(rebuilt(here, 7)) == digests(original(trained, 7))


def test_what_is_there_is_not_made_again(here: Workspace) -> None:
    assert "checkpoints/phase2/step-00000020: it is there" in rebuild(here, 20)
    assert not here.rebuilding.exists()


def test_a_damaged_one_is_made_again_and_known_by_its_digests(trained: Workspace, here: Workspace) -> None:
    flip_byte(here.checkpoints("phase1") / checkpoint_name("step", 4) / "model.safetensors")
    said = rebuild(here, 4)
    assert "model.safetensors and ema.safetensors and optimizer.safetensors have the SHA-256" in said
    assert digests(rebuilt(here, 4)) == digests(original(trained, 4))


def test_after_clean_best_only_the_reports_and_the_best_tell(trained: Workspace, here: Workspace) -> None:
    for phase in PHASES:
        shutil.rmtree(here.checkpoints(phase))
    assert "of steps 1 to 7 only 2 are recorded, in reports/ to six digits: these are the same" in rebuild(here, 5)
    assert digests(rebuilt(here, 5)) == digests(original(trained, 5))
    assert "2 steps again from the beginning of phase2" in rebuild(here, STEPS + 2)
    assert digests(rebuilt(here, STEPS + 2)) == digests(original(trained, STEPS + 2))
    best = next(trained.checkpoints("phase2").glob("best-*"))
    assert "have the SHA-256 that they had then" in rebuild(here, int(best.name.removeprefix("best-")))


def test_adapters_too(template: Workspace, tmp_path: Path) -> None:
    at = kept_all(template, tmp_path / "adapters", **LORA)
    whole = original(at, 7), digests(original(at, 7))
    keep(at, "phase1", 4)
    rebuild(at, 7)
    assert digests(rebuilt(at, 7)) == whole[1]


def test_of_a_run_under_way(trained: Workspace, template: Workspace, tmp_path: Path) -> None:
    """Retention has pruned; a kill took the steps behind the newest state, whose figures are known."""
    at = copied(template, tmp_path / "under way", keep_last=1, save_every_steps=4)
    with pytest.raises(Stopped):
        train(at, params_of(at), stop_at=11)
    shutil.rmtree(at.work("phase1") / checkpoint_name("step", 11))
    shutil.copytree(original(trained, 10), at.work("phase1") / checkpoint_name("step", 10))
    for step in (2, 9, 11):
        assert "as recorded, to the last bit" in rebuild(at, step)
        assert tensors(rebuilt(at, step)) == tensors(original(trained, step))
    with pytest.raises(UserError, match=r"--step 12\n.*phase1 came to step 11"):
        rebuild(at, 12)


# What must not be passed off as what was trained then.


@pytest.mark.parametrize("metric", ["train/mel_ce", "train/grad_norm", "eval_ema/text_ce"])
def test_a_figure_that_differs_in_its_last_bit(here: Workspace, metric: str) -> None:
    keep(here, "phase1", 3)
    change_curve(here, lambda row: {**row, metric: nextafter(row[metric], 9.0)} if metric in row else row, at_step=6)
    with pytest.raises(UserError, match=f"the training does not repeat\n  phase1, step 6\n      {metric} was"):
        rebuild(here, 5)
    assert not list(here.rebuilding.iterdir())


def test_a_figure_that_does_not_come_again(here: Workspace) -> None:
    keep(here, "phase1", 3)
    change_curve(here, lambda row: {**row, "train/more": 1.0} if "train/mel_ce" in row else row, at_step=4)
    with pytest.raises(UserError, match="train/more was recorded, and there is none now"):
        rebuild(here, 5)


def test_weights_that_have_another_digest(here: Workspace) -> None:
    """The last step of a phase has no figure behind it that depends on its weights, but for its evaluation."""
    card = here.model("phase2") / MODEL_CARD
    write_json(card, {**read_json(card), "sha256": "0" * 64})
    keep(here, "phase2", STEPS + 2)
    step = read_json(card)["step"]
    with pytest.raises(UserError, match=rf"phase2, step {step}\n.* had the SHA-256 000000000000… and has"):
        rebuild(here, step)


@pytest.mark.parametrize("is_cleaned", [False, True])
def test_other_parameters_ask_for_another_run(here: Workspace, is_cleaned: bool) -> None:
    if is_cleaned:
        shutil.rmtree(here.checkpoints("phase1"))
    write_params(here, make_params(**{**KEEPING_ALL, "lr": 2e-3}))
    told = "trained with other parameters" if is_cleaned else "is another run's: train_phase1.lr 0.001 → 0.002"
    with pytest.raises(UserError, match=told):
        rebuild(here, 5)


def test_nothing_was_trained(template: Workspace, tmp_path: Path) -> None:
    at = copied(template, tmp_path / "new")
    with pytest.raises(UserError, match=r"phase1 has not been trained here\n      remedy: .*dvc repro"):
        rebuild(at, 5)


def test_newer_code_is_said_where_it_does_not_repeat(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(here, "phase1", 3)
    change_curve(here, lambda row: {**row, "train/mel_ce": 1.0} if "train/mel_ce" in row else row, at_step=5)
    monkeypatch.setattr("xtts_finetune.checkpoints.identity.code_digest", lambda: "newer")
    with pytest.raises(UserError, match="the code that trains has changed since"):
        rebuild(here, 5)


def test_newer_code_that_trains_the_same_is_no_matter(
    trained: Workspace, here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(here, "phase1", 3)
    monkeypatch.setattr("xtts_finetune.checkpoints.identity.code_digest", lambda: "newer")
    rebuild(here, 5)
    assert digests(rebuilt(here, 5)) == digests(original(trained, 5))


def test_without_room_nothing_begins(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(here, "phase1", 3)
    monkeypatch.setattr("xtts_finetune.diskspace.budget.free_bytes", lambda place: 1000)
    with pytest.raises(UserError, match="the state of step 5 does not fit on the disk"):
        rebuild(here, 5)


def test_one_at_a_time(here: Workspace) -> None:
    keep(here, "phase1", 3)
    with one_at_a_time(here), pytest.raises(UserError, match="another process trains steps again here"):
        rebuild(here, 5)


def test_what_was_made_again_is_no_record(here: Workspace) -> None:
    """Of steps that reports/ knows to six digits no more is known afterwards; of those within an epoch nothing."""
    shutil.rmtree(here.checkpoints("phase1"))
    rebuild(here, 6)
    assert "nothing is recorded of steps 1 to 2" not in rebuild(here, 4)
    assert "last bit" not in rebuild(here, 5)
    here.curve("phase1").write_text("<<<<<<< HEAD", encoding="utf-8")
    assert "nothing is recorded of steps 7 to 10 that could prove it" in rebuild(here, 8)


def test_the_last_step_of_a_run_under_way_has_no_witness(
    trained: Workspace, template: Workspace, tmp_path: Path
) -> None:
    at = copied(template, tmp_path / "under way", keep_last=1, save_every_steps=4)
    with pytest.raises(Stopped):
        train(at, params_of(at), stop_at=11)
    state = at.work("phase1") / checkpoint_name("step", 11)
    flip_byte(state / "model.safetensors")
    shutil.copytree(original(trained, 10), at.work("phase1") / checkpoint_name("step", 10))
    (state / MANIFEST).unlink()  # then its digests are not known
    assert "to the last bit. Nothing was recorded that depends on its last step" in rebuild(at, 11)


def test_a_state_of_the_run_before_is_not_passed_off(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made again by older code, of a run of the same parameters that was trained anew since."""
    keep(here, "phase1", 3)
    rebuild(here, 5)
    old = rebuilt(here, 5)
    done = here.checkpoints("phase1") / DONE
    content = read_json(done)
    done.unlink()
    write_json(done, {**content, "code": "of another time"})
    assert "made again" in rebuild(here, 5)
    assert len([*here.rebuilding.glob("phase1.*")]) == 2
    assert old.is_dir()


@pytest.mark.parametrize("damaged", ["manifest.json", "state.json"])
def test_a_damaged_state_is_passed_over(trained: Workspace, here: Workspace, damaged: str) -> None:
    keep(here, "phase1", 3, 9)
    file = here.checkpoints("phase1") / checkpoint_name("step", 9) / damaged
    file.unlink()
    file.write_text("{}", encoding="utf-8")
    rebuild(here, 10)
    assert digests(rebuilt(here, 10)) == digests(original(trained, 10))


def test_the_best_of_another_run_in_models_does_not_count(here: Workspace) -> None:
    """As after `restore`."""
    card = here.model("phase1") / MODEL_CARD
    content = read_json(card)
    write_json(card, {**content, "sha256": "0" * 64, "eval": {**content["eval"], "mel_ce": 1.0}})
    keep(here, "phase1", 3)
    assert "every figure" in rebuild(here, content["step"])


# Around it.


def test_what_was_made_again_can_be_exported_by_its_step(here: Workspace) -> None:
    keep(here, "phase1", 3)
    rebuild(here, 5)
    assert [each.folder for each in checkpoints(here, params_of(here), "phase1") if each.step == 5] == [
        rebuilt(here, 5)
    ]


def test_how_long_it_will_take_is_said(here: Workspace) -> None:
    keep(here, "phase1", 3)
    write_json(here.pace, {"phase1": 60.0})
    assert "6 steps again from the state of step 3, about 6 min" in rebuild(here, 9)
