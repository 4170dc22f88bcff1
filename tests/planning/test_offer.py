"""What `plan` offers is taken by params.yaml as it is pasted, whichever phase it is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from making.params import LORA, PARTS, changed, make_params

from xtts_finetune.core.layout import PHASES, PhaseName
from xtts_finetune.core.params import LaunchParams, Params, load_params
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.planning.choices import Device, Way, methods, sizes, ways
from xtts_finetune.planning.command import recommended_lines
from xtts_finetune.planning.offer import offered


@dataclass
class OfThese:
    """Choices of which the given methods fit, in every batch; nothing is traced."""

    phase: PhaseParams
    fit: tuple[str, ...]
    most: int = 1000  # clips in a batch
    device = Device(True, 8 << 30, "a GPU")

    @property
    def fitting(self) -> list[tuple[Way, int]]:
        those = [way for way in ways(self.phase, True) if way.method in self.fit]
        return [(way, size) for way in those for size in sizes(self.phase) if size <= self.most]

    @property
    def recommended(self) -> tuple[Way, int] | None:
        return next(iter(self.fitting), None)


def pasted(folder: Path, params: Params, phases: tuple[PhaseName, ...], *fit: str) -> Params | None:
    """What params.yaml says with the lines that are offered, in the phases that they are offered for."""
    choices: Any = OfThese(params.phase(phases[0]), fit)
    offer = offered(params, choices, phases)
    content: dict[str, Any] = params.model_dump()
    named: list[str] = []
    for line in recommended_lines(offer, choices, phases):
        if "in train_" in line:
            named = [f"train_{name}" for name in PHASES if f"train_{name}" in line]
        elif line.startswith("  "):
            for phase in named:
                content[phase] |= yaml.safe_load(line)
    if offer is None:
        assert not named
        return None
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    taken = load_params(folder / "params.yaml")
    assert taken == offer.params
    return taken


def test_adapters_for_phase_2_come_with_adapters_for_phase_1(tmp_path: Path) -> None:
    taken = pasted(tmp_path, changed(make_params(), phases=["phase1"], batch_size=3), ("phase2",), "lora")
    assert taken
    assert (taken.train_phase1.method, taken.train_phase2.method) == ("lora", "lora")
    assert taken.train_phase1.batch_size == 3, "of phase 1 nothing else changes"


def test_what_phase_2_can_do_beside_phase_1_is_preferred(tmp_path: Path) -> None:
    taken = pasted(tmp_path, make_params(**LORA), ("phase2",), "full")
    assert taken
    assert (taken.train_phase1.method, taken.train_phase2.method) == ("lora", "full")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("own", [LORA, PARTS, {}])
@pytest.mark.parametrize("fits", ["full", "lora", "parts"])
def test_every_change_of_method(tmp_path: Path, phase: PhaseName, own: dict[str, Any], fits: str) -> None:
    params = make_params(**own)
    taken = pasted(tmp_path, params, (phase,), fits)
    assert (taken is not None) == (fits in methods(params.phase(phase)))
    assert taken is None or Way.of(taken.phase(phase)).method == fits


def test_both_phases_together(tmp_path: Path) -> None:
    taken = pasted(tmp_path, make_params(), PHASES, "lora")
    assert taken
    assert taken.train_phase1.lora == taken.train_phase2.lora is not None


def test_no_batch_has_fewer_clips_than_there_are_processes(tmp_path: Path) -> None:
    launch = LaunchParams(processes=3, nodes=1, rendezvous=None)
    params = make_params(batch_size=4, accumulate=2).model_copy(update={"launch": launch})
    choices: Any = OfThese(params.train_phase1, ("full",), most=2)
    assert offered(params, choices, PHASES) is None
    assert "is not accepted beside launch" in next(recommended_lines(None, choices, PHASES))
    taken = pasted(tmp_path, params, PHASES, "full")
    assert taken
    assert taken.train_phase1.batch_size >= 3
