"""`xtts-finetune status` tells whose figures and whose version it shows."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from making.params import ParamsFile

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.files import write_json
from xtts_finetune.tracking.curve import Curve


def status(checkout: Checkout) -> str:
    return checkout.run("xtts-finetune", "status").stdout


def test_a_finished_run_is_this_workspaces(finished: Checkout) -> None:
    assert "figures    of this workspace's run\n" in status(finished)


def test_a_clone_in_which_nothing_ran_has_the_commits(copied: Checkout) -> None:
    for name in ("models", "checkpoints", "prepared"):
        shutil.rmtree(copied.root / name)
    said = status(copied)
    assert "figures    as committed with git: nothing was trained in this checkout" in said
    assert as_typed("  dvc repro  ") in said
    assert "mlflow ui" not in said


def test_without_models_the_next_thing_is_to_train(copied: Checkout) -> None:
    shutil.rmtree(copied.root / "models" / "phase2")
    said = status(copied)
    assert "of models/phase2, which is gone" in said
    assert "mlflow ui" not in said


def test_other_parameters_are_named(copied: Checkout) -> None:
    def other(params: ParamsFile) -> None:
        params["train_phase2"]["lr"] = 1e-5

    copied.change_params(other)
    said = status(copied)
    assert "figures    of an earlier run, before train_phase2.lr 0.0003 → 1e-05" in said
    assert as_typed("  dvc repro  ") in said


def test_other_recordings_are_named(copied: Checkout) -> None:
    metadata = copied.root / "data" / "metadata.csv"
    lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    metadata.unlink()  # a link into DVC's cache
    metadata.write_text("".join(lines[1:]), encoding="utf-8")
    copied.run("dvc", "add", "--quiet", "data")
    assert "of an earlier run, before data.dvc named other recordings" in status(copied)


@pytest.mark.slow
def test_other_clips_are_named(studio: Checkout, tmp_path: Path) -> None:
    checkout = studio.copy(tmp_path / "checkout")
    checkout.change_params(lambda params: params["prepare"].update(eval_fraction=0.3))
    checkout.repro("prepare")
    assert "before other clips were prepared" in status(checkout)


def test_the_version_says_whose_weights_it_is(copied: Checkout) -> None:
    registration = copied.json("reports/registration.json")
    best = copied.json("reports/evaluation.json")["best"]
    digest = copied.json(f"models/{best}/model.json")["sha256"]
    file = copied.root / "reports" / "registration.json"
    write_json(file, {**registration, "model_sha256": digest})
    assert f"version 1 (candidate, champion), the weights of models/{best}\n" in status(copied)
    write_json(file, {**registration, "model_sha256": "0" * 64})
    assert "version 1 is of another run: those weights are not in models/\n" in status(copied)
    write_json(file, {"pending": True, "model_sha256": digest})
    assert as_typed("registered not yet: it waits for MLflow (xtts-finetune sync)") in status(copied)


def test_a_base_that_is_not_there_is_said_to_be_so(fresh: Checkout) -> None:
    """As a newcomer writes it: seen from the project's root."""
    fresh.change_params(lambda params: params.update(base="voices/anna"))
    said = fresh.run("xtts-finetune", "status").stdout
    assert f"base = voices/anna: there is no folder {fresh.root / 'base/voices/anna'}" in said
    assert "a folder beside it is ../FOLDER" in said
    assert "dvc repro" not in said.partition("next:")[2]


def test_a_parked_run_is_listed_with_its_bytes(copied: Checkout) -> None:
    folder = copied.root / "work" / "phase1.0123456789abcdef"
    shutil.copytree(copied.root / "checkpoints" / "phase1", folder)
    [line] = [line for line in status(copied).splitlines() if "0123456789abcdef" in line]
    assert line.startswith("  parked phase1 0123456789abcdef at step 6, best Mel CE ")
    assert line.endswith(" MB")


def test_a_run_that_lost_its_states_cannot_go_on(fresh: Checkout) -> None:
    work = fresh.root / "work" / "phase1"
    (work / "step-00000006").mkdir(parents=True)  # half-deleted: without its manifest
    curve = Curve(work / "curve.jsonl")
    for step in (0, 12):
        write_json(work / f"best-{step:08d}" / "manifest.json", {"files": {}})
        curve.append({"step": step, "epoch": 0, "eval/mel_ce": 4.0})
        said = "only the best weights are left, of step 12: " if step else "repro starts over\n"
        assert said in status(fresh)


def test_what_the_evaluations_of_the_running_phase_tell(fresh: Checkout) -> None:
    work = fresh.root / "work" / "phase1"
    work.mkdir(parents=True)
    curve = Curve(work / "curve.jsonl")
    fresh.change_params(lambda params: params["train_phase1"].update(epochs=20))
    for epoch in range(9):
        if epoch == 4:
            assert "forecast   phase1: too few evaluations for a forecast: 4 of 5" in status(fresh)
        figure = 2.9 + 1.2 * 0.6**epoch + 0.004 * (-1) ** epoch
        curve.append({"step": 67 * epoch, "epoch": epoch, "eval/mel_ce": figure, "mean/mel_ce": figure})
    lines = status(fresh).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("forecast   phase1: "))
    assert "not at this rate: the fit levels off at 2." in lines[at]
    assert lines[at + 1].startswith("           804 steps (")
    assert "are left, up to step 1,340: by the fit its best is 2." in lines[at + 1]
    assert lines[lines.index("phase1 so far") + 2].split()[:3] == ["0", "0", "4.104"]


def cleared(checkout: Checkout, phase: str) -> None:
    """As DVC leaves the workspace when it begins to train a phase."""
    for name in (f"checkpoints/{phase}", f"models/{phase}"):
        shutil.rmtree(checkout.root / name)
    for name in (f"train_{phase}.json", f"curve_{phase}.csv"):
        (checkout.root / "reports" / name).unlink()


def test_a_run_that_dvcs_cache_has_comes_back_and_needs_no_room(copied: Checkout) -> None:
    """A run of other parameters took its place, was stopped, and they were set back."""
    figures = copied.json("reports/train_phase1.json")
    cleared(copied, "phase1")
    copied.change_params(lambda params: params["train_phase1"].update(lr=0.5))
    assert "in DVC's cache: dvc repro brings it back" not in status(copied).replace(as_typed("dvc"), "dvc")
    copied.run("git", "checkout", "params.yaml")
    said = status(copied)
    assert as_typed("phase1     in DVC's cache: dvc repro brings it back, without training\n") in said
    assert "free\n" in next(line for line in f"{said}\n".splitlines(keepends=True) if line.startswith("disk"))
    assert "no phase is left to be trained" in copied.run("xtts-finetune", "disk").stdout
    assert "Running stage" not in copied.repro("train_phase2")
    assert copied.json("reports/train_phase1.json") == figures


def test_it_does_not_where_the_cache_lacks_some_of_it_or_the_sources_are_others(copied: Checkout) -> None:
    cleared(copied, "phase2")
    source = copied.root / "src" / "xtts_finetune" / "training" / "loss.py"
    code = source.read_text(encoding="utf-8")
    source.write_text(f"{code}\n", encoding="utf-8")
    assert "in DVC's cache: dvc repro brings it back" not in status(copied).replace(as_typed("dvc"), "dvc")
    source.write_text(code, encoding="utf-8")
    assert "phase2     in DVC's cache" in status(copied)
    report = copied.lock()["train_phase2"]["reports/curve_phase2.csv"]["md5"]
    (copied.root / ".dvc/cache/files/md5" / report[:2] / report[2:]).unlink()
    assert "in DVC's cache: dvc repro brings it back" not in status(copied).replace(as_typed("dvc"), "dvc")


def test_the_real_model_is_measured_before_it_is_there(copied: Checkout) -> None:
    """What lies in models/ is mini's, and counts for nothing."""
    copied.change_params(lambda params: params.update(base="xtts_v2"))
    said = copied.run("xtts-finetune", "disk").stdout
    assert "2 × 5.29 GB" in said
    assert "phase2, after phase1: " in said
    assert "; phase1 needs 17.7 GB" in status(copied)
    assert json.loads((copied.root / "prepared/base/base.json").read_text())["gpt"]["parameters"] < 441_018_563


def test_numbers_are_dvcs(copied: Checkout) -> None:
    """`dvc exp run -S train_phase2.lr=1e-6` writes 1e-06: a number in YAML 1.2, in 1.1 a text."""
    for name in ("params.yaml", "dvc.lock"):
        text = (copied.root / name).read_text(encoding="utf-8")
        assert "lr: 0.0003" in text
        (copied.root / name).write_text(text.replace("lr: 0.0003", "lr: 1e-06"), encoding="utf-8")
    assert "figures    of this workspace's run\n" in status(copied)


def test_a_mistake_in_the_parameters_comes_first(copied: Checkout) -> None:
    copied.change_params(lambda params: params.update(sead=1))
    assert status(copied).endswith("next: mend params.yaml\n")


def test_a_phase_trained_again_makes_what_follows_an_earlier_runs(copied: Checkout) -> None:
    """As between the stages of a repro that was stopped."""
    train_again(copied, "phase1")
    assert "figures    of this workspace's run\n" in status(copied), "phase 2 began with this phase 1"
    card = "models/phase1/model.json"
    write_json(copied.root / card, {**copied.json(card), "sha256": 64 * "0"})
    said = status(copied)
    assert "state      phase1 is done, and phase2 has not begun\n" in said
    assert "phase2     not there yet\n" in said
    assert as_typed("  dvc repro  ") in said


def train_again(checkout: Checkout, phase: str) -> None:
    """As dvc.lock says it."""
    lock = checkout.root / "dvc.lock"
    content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    [model] = [out for out in content["stages"][f"train_{phase}"]["outs"] if out["path"] == f"models/{phase}"]
    model["md5"] = "0" * 32 + ".dir"
    lock.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_while_phase_2_trains_phase_1_is_this_workspaces(copied: Checkout) -> None:
    """In a fresh clone, whose dvc.lock and evaluation are of the commit's models."""
    train_again(copied, "phase1")
    (copied.root / "reports" / "train_phase2.json").unlink()
    assert "figures    of this workspace's run\n" in status(copied)


def test_models_that_are_not_evaluated_yet_are_to_be(copied: Checkout) -> None:
    train_again(copied, "phase2")
    said = status(copied)
    assert "figures    of this workspace's run\n" in said
    assert as_typed("  dvc repro  ") in said
