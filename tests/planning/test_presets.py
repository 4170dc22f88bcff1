"""What people have: each preset fits its card, and is what the plan recommends for it."""

from dataclasses import replace
from pathlib import Path

import pytest
from making.project import PROJECT

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.planning.choices import Choices
from xtts_finetune.planning.subject import Subject
from xtts_finetune.planning.ways import Way

CARDS = (6, 8, 12, 24)  # GiB
USABLE = 0.96  # of what is on the box
MAY_DIFFER = {"batch_size", "accumulate", "optim", "precision", "gradient_checkpointing"}
each = pytest.mark.parametrize("card", CARDS)


def preset(name: str) -> Params:
    return load_params(PROJECT / "presets" / f"{name}.yaml")


def plan(params: Params, card: int) -> Choices:
    return Subject.of(Workspace(Path("/nowhere")), params, card << 30).choices("phase1")


@pytest.mark.slow
@each
def test_it_fits(card: int) -> None:
    choices = plan(preset(f"xtts_v2_{card}gib"), card)
    training, memory = choices.own
    assert training.parameters == (441_018_563, 0)
    assert choices.device.needed(memory) < USABLE * (card << 30)


@each
def test_it_is_the_run_of_the_real_model_in_another_way(card: int) -> None:
    theirs, ours = preset("xtts_v2").model_dump(), preset(f"xtts_v2_{card}gib").model_dump()
    for phase in ("train_phase1", "train_phase2"):
        changed = {key for key, value in ours[phase].items() if value != theirs[phase][key]}
        assert changed <= MAY_DIFFER
        assert ours[phase]["batch_size"] * ours[phase]["accumulate"] == 3
        theirs[phase] = ours[phase]
    assert ours == theirs


@pytest.mark.slow
def test_each_is_what_is_recommended() -> None:
    """The same traces for all cards: only what fits differs."""
    largest = plan(preset("xtts_v2"), CARDS[-1])
    for card in CARDS:
        own = preset(f"xtts_v2_{card}gib").train_phase1
        choices = replace(largest, device=replace(largest.device, bytes=card << 30))
        assert choices.recommended == (Way.of(own), own.batch_size), card
