"""`xtts-finetune export` as it is typed, in a checkout whose base is mini."""

import os

import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow  # MLflow takes seconds to load


def export(checkout: Checkout, *arguments: str) -> str:
    before = os.listdir(checkout.root.parent)
    said = checkout.run("xtts-finetune", "export", *arguments, code=2).stderr
    assert "Traceback" not in said
    assert os.listdir(checkout.root.parent) == before
    return said


@pytest.mark.parametrize("what", [[], ["champion"], ["phase2"]])
def test_mini_is_refused(copied: Checkout, what: list[str]) -> None:
    assert "the base mini, which is no XTTS" in export(copied, *what, "../anna")


def test_what_there_is(copied: Checkout) -> None:
    said = export(copied, "phase2@7777", "../anna")
    assert "version 1 (candidate, champion): the best of" in said
    step = copied.json("reports/train_phase1.json")["step"]
    assert f"phase1@{step}" in said
    assert "checkpoints/phase1/best-" in said


def test_arguments(copied: Checkout) -> None:
    assert "one model at a time" in export(copied, "phase1", "phase2", "../anna")
    assert "FOLDER" in export(copied)
