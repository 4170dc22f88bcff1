"""A training that meets the end of the device's memory: everything is saved, and what needs less is said."""

import sys
from pathlib import Path

import pytest
from small_runs import PHASE1, RESUMABLE, Before, Reference, Small

from xtts_finetune.core.commands import as_typed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


def exhausted(before: Before, root: Path, function: str, call: int) -> tuple[Small, str]:
    """Phase 1, of three steps an epoch, until an allocation fails; and what it said, with the table."""
    small = before[PHASE1].copy(root / "exhausted")
    small.change_params(lambda params: params["checkpoints"].update(save_every_steps=100))
    said = small.run(*PHASE1, at={1: f"exhaust {function} {call}"}, code=RESUMABLE)
    assert "Traceback" not in said
    assert "does not fit in the memory" in said
    assert "adamw8bit" in said
    assert "recommended: full" in said
    assert "in params.yaml, in train_phase1:" in said
    assert as_typed("dvc repro goes on") in said
    return small, said


@pytest.mark.parametrize(
    ("function", "call", "what", "saved"),
    [
        ("step.losses", 5, "phase1: step 5, of up to 3 clips with", 4),
        ("step.update", 5, "phase1: step 5, of up to 3 clips with", 3),  # some weights may have changed
        ("step.losses", 1, "phase1: step 1, of up to 3 clips with", 0),
        ("loss.evaluate", 3, "phase1: the evaluation after step 3", 0),
    ],
)
def test_a_step_without_memory(
    before: Before, reference: Reference, tmp_path: Path, function: str, call: int, what: str, saved: int
) -> None:
    small, said = exhausted(before, tmp_path, function, call)
    assert what in said
    assert f"phase1 is saved at step {saved}" in said
    assert small.states("phase1")[-1] == saved
    assert (small.root / "reports" / "status.md").exists()
    small.run(*PHASE1)
    reference.check_phase(small, "phase1")


def test_a_network_without_memory(before: Before, tmp_path: Path) -> None:
    _, said = exhausted(before, tmp_path, "phases._inputs", 1)
    assert "phase1: the network does not fit in the memory" in said
