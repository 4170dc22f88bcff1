"""More epochs for a run that is long done: it goes on from its last state, which DVC's cache still has."""

import shutil
from pathlib import Path

import pytest
from checkouts import Checkout
from making.params import ParamsFile


def one_epoch_more(params: ParamsFile) -> None:
    params["train_phase1"]["epochs"] += 1


@pytest.mark.slow
def test_a_done_phase_goes_on_as_if_it_had_never_ended(finished: Checkout, copied: Checkout, tmp_path: Path) -> None:
    assert not (copied.root / "work" / "phase1").exists(), "the phase after it has cleared it away"
    copied.change_params(one_epoch_more)
    assert "resuming phase1 after step 6\n" in copied.repro("train_phase1")

    undisturbed = finished.copy(tmp_path / "undisturbed")
    undisturbed.forget_training()
    undisturbed.change_params(one_epoch_more)
    assert "resuming" not in undisturbed.repro("train_phase1")
    for out, item in undisturbed.lock()["train_phase1"].items():
        assert copied.lock()["train_phase1"][out]["md5"] == item["md5"], out


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["the listing", "a file", "everything"])
def test_without_its_states_it_starts_afresh(copied: Checkout, loss: str) -> None:
    """What `clean --best-only` or another machine leaves of it."""
    out = copied.lock()["train_phase1"]["checkpoints/phase1"]["md5"]
    objects = copied.root / ".dvc" / "cache" / "files" / "md5"
    if loss == "the listing":
        (objects / out[:2] / out[2:]).unlink()
    elif loss == "a file":
        states = copied.root / "checkpoints" / "phase1"
        inode = (states / "step-00000006" / "optimizer.safetensors").stat().st_ino
        next(file for file in objects.glob("*/*") if file.stat().st_ino == inode).unlink()
    else:
        shutil.rmtree(objects)
    copied.change_params(one_epoch_more)
    said = copied.repro("--single-item", "train_phase1")
    assert "resuming" not in said
    assert "phase1: epoch" in said


@pytest.mark.slow
def test_another_rate_says_so_and_starts_afresh(copied: Checkout) -> None:
    copied.change_params(lambda params: params["train_phase1"].update(lr=2e-3))
    said = copied.repro("train_phase1")
    assert "another run: train_phase1.lr 0.001 → 0.002 changed; the one before is in DVC's cache, where" in said
    assert "resuming" not in said
