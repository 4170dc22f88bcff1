"""What `plan` offers is taken by params.yaml as it is pasted, whichever phase it is for."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from making.params import LORA, PARTS, changed, make_params

from xtts_finetune.core.layout import PHASES, PhaseName
from xtts_finetune.core.params import LaunchParams, Params, load_params
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.planning.choices import Choices
from xtts_finetune.planning.command import recommended_lines
from xtts_finetune.planning.device import Device
from xtts_finetune.planning.memory import Memory
from xtts_finetune.planning.offer import offered
from xtts_finetune.planning.ways import Way, methods

ANY = 10**12  # clips in a batch
DEVICE = Device(True, 8 << 30, "a GPU")


class Untraced:
    """In the place of traced steps: of every method, how many clips in a batch fit."""

    def __init__(self, phase: PhaseParams, other: PhaseParams, most: Mapping[str, int]) -> None:
        self.phase, self.other, self.most = phase, other, most

    def training(self, way: Way) -> Any:
        return SimpleNamespace(moments=0)

    def memory(self, way: Way, size: int) -> Memory:
        nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(Memory)), 0)
        fits = size <= self.most.get(way.method, 0)
        return Memory(**nothing | {"step": 0 if fits else 2 * DEVICE.bytes})


def choices_of(params: Params, name: PhaseName = "phase1", **most: int) -> Choices:
    other = params.train_phase2 if name == "phase1" else params.train_phase1
    traces: Any = Untraced(params.phase(name), other, most)
    return Choices(traces, DEVICE, params.launch.processes)


def pasted(folder: Path, params: Params, phases: tuple[PhaseName, ...], **most: int) -> Params | None:
    """What params.yaml says with the lines that are offered, in the phases that they are offered for."""
    choices = choices_of(params, phases[0], **most)
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
    taken = pasted(tmp_path, changed(make_params(), phases=["phase1"], batch_size=3), ("phase2",), lora=ANY)
    assert taken
    assert (taken.train_phase1.method, taken.train_phase2.method) == ("lora", "lora")
    assert taken.train_phase1.batch_size == 3, "of phase 1 nothing else changes"


def test_what_phase_2_can_do_beside_phase_1_is_preferred(tmp_path: Path) -> None:
    taken = pasted(tmp_path, make_params(**LORA), ("phase2",), full=ANY)
    assert taken
    assert (taken.train_phase1.method, taken.train_phase2.method) == ("lora", "full")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("own", [LORA, PARTS, {}])
@pytest.mark.parametrize("fits", ["full", "lora", "parts"])
def test_every_change_of_method(tmp_path: Path, phase: PhaseName, own: dict[str, Any], fits: str) -> None:
    params = make_params(**own)
    taken = pasted(tmp_path, params, (phase,), **{fits: ANY})
    assert (taken is not None) == (fits in methods(params.phase(phase), params.phase(phase)))
    assert taken is None or Way.of(taken.phase(phase)).method == fits


@pytest.mark.parametrize(("own", "fits"), [(LORA, "lora"), (PARTS, "parts")])
def test_phase_2_goes_on_with_what_phase_1_is(tmp_path: Path, own: dict[str, Any], fits: str) -> None:
    """Which then need not be trained anew."""
    params = changed(make_params(), phases=["phase1"], **own)
    taken = pasted(tmp_path, params, ("phase2",), **{fits: ANY})
    assert taken
    assert taken.train_phase1 == params.train_phase1
    assert taken.train_phase2.trained == params.train_phase1.trained


def test_both_phases_together(tmp_path: Path) -> None:
    taken = pasted(tmp_path, make_params(), PHASES, lora=ANY)
    assert taken
    assert taken.train_phase1.lora == taken.train_phase2.lora is not None


def in_processes(params: Params, processes: int) -> Params:
    launch = LaunchParams(processes=processes, nodes=1, rendezvous=None)
    return params.model_copy(update={"launch": launch})


@pytest.mark.parametrize(("most", "size"), [(ANY, 24), (23, 12), (8, 8), (7, None)])
def test_no_batch_has_fewer_clips_than_there_are_processes(tmp_path: Path, most: int, size: int | None) -> None:
    params = in_processes(make_params(batch_size=24, accumulate=1), 8)
    taken = pasted(tmp_path, params, PHASES, full=most)
    assert (taken and taken.train_phase1.batch_size) == size


def test_where_not_even_those_fit_it_is_said() -> None:
    choices = choices_of(in_processes(make_params(batch_size=24, accumulate=1), 8), full=7)
    [said] = recommended_lines(None, choices, PHASES)
    assert said.startswith("nothing fits in 8.00 GiB in batches of 8 clips or more, one for each process")


STEPS = pytest.mark.parametrize(("batch", "accumulate"), [(3, 1), (12, 1), (24, 1), (32, 1), (3, 84), (7, 11)])


@STEPS
@pytest.mark.parametrize("most", [1, 2, 5, 13, 40, ANY])
def test_the_largest_batch_that_fits_is_recommended(batch: int, accumulate: int, most: int) -> None:
    clips = batch * accumulate
    largest = max(size for size in range(1, clips + 1) if clips % size == 0 and size <= most)
    recommended = choices_of(make_params(batch_size=batch, accumulate=accumulate), full=most).recommended
    assert recommended
    assert recommended[1] == largest


def test_a_batch_that_fits_alone_is_not_missed() -> None:
    """Several batches a step keep their gradients meanwhile: in fp32 one of all its clips can need less."""
    choices = choices_of(make_params(batch_size=3, accumulate=2), full=ANY)
    memory = choices.traces.memory
    choices.traces.memory = lambda way, size: memory(way, size if size >= 6 else 2 * ANY)  # type: ignore[method-assign]
    assert choices.recommended
    assert choices.recommended[1] == 6


@STEPS
@pytest.mark.parametrize("most", [1, 9, ANY])
def test_the_table_shows_the_own_batch_and_the_recommended(batch: int, accumulate: int, most: int) -> None:
    choices = choices_of(make_params(batch_size=batch, accumulate=accumulate), full=most)
    columns, clips = choices.sizes, batch * accumulate
    assert choices.recommended
    assert {1, batch, choices.recommended[1], clips, 2 * clips} <= set(columns)
    assert columns == sorted(set(columns))
    assert len(columns) <= 8


def test_a_batch_of_no_size_that_anybody_has() -> None:
    choices = choices_of(make_params(batch_size=10**9, accumulate=1), full=1500)
    assert choices.recommended
    assert choices.recommended[1] == 1280
    assert choices.sizes[-2:] == [10**9, 2 * 10**9]
