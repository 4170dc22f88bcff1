"""Parked runs: listed by `clean` and `disk`, and deleted by their key alone."""

import shutil
from pathlib import Path

import pytest
from checkouts import Checkout
from cleaning import clean
from filelock import FileLock

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.files import read_json, write_json

KEY = "0123456789abcdef"


@pytest.fixture
def here(copied: Checkout) -> Checkout:
    """A checkout beside whose run another of phase 1 is parked, with a higher learning rate."""
    folder = parked(copied)
    shutil.copytree(copied.root / "checkpoints" / "phase1", folder)
    for file in (folder / "DONE", *folder.glob("*/state.json")):
        content = read_json(file)
        known = content.get("trajectory", content.get("fingerprint"))
        known["train_phase1.lr"] = 0.05
        file.unlink()
        write_json(file, content)
    return copied


def parked(checkout: Checkout) -> Path:
    return checkout.root / "work" / f"phase1.{KEY}"


def test_it_is_listed_with_what_is_different_about_it(here: Checkout) -> None:
    figures = here.json("reports/train_phase1.json")
    expected = (
        f"parked phase1 {KEY} at step {figures['last_step']}, best Mel CE {figures['eval']['mel_ce']:.3f}, lr 0.05"
    )
    command = f"xtts-finetune clean --parked {KEY} --yes"
    for said in (clean(here), here.run("xtts-finetune", "disk").stdout):
        assert expected in said
        assert command in said
    alone = clean(here, "--parked", KEY)
    assert expected in alone
    assert as_typed(f"do it: {command}") in alone
    assert parked(here).is_dir()


def test_no_other_option_takes_it(here: Checkout) -> None:
    clean(here, "--best-only", "--force", "--history", "--yes")
    assert (parked(here) / "DONE").is_file()


def test_its_key_does_and_nothing_else_goes(here: Checkout) -> None:
    others = here.files("checkpoints", "models", ".dvc/cache", "mlruns/artifacts")
    assert "gone, 219 MB freed" in clean(here, "--parked", KEY, "--yes")
    assert not parked(here).exists()
    assert here.leftovers() == []
    assert here.files("checkpoints", "models", ".dvc/cache", "mlruns/artifacts") == others


def test_another_key_is_refused_with_those_that_there_are(here: Checkout) -> None:
    assert f"parked phase1 {KEY} at step" in clean(here, "--parked", "fedcba9876543210", "--yes", code=2)
    assert "one run" in clean(here, "--parked", KEY, "--best-only", code=2)
    assert parked(here).is_dir()


def test_while_its_phase_is_trained_it_stays(here: Checkout) -> None:
    """The trainer may be about to take it back."""
    with FileLock(here.root / "work" / "phase1.lock"):
        assert "could be taking it back" in clean(here, "--parked", KEY, "--yes", code=2)
    assert parked(here).is_dir()
