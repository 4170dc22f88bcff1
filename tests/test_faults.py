"""Killed, stopped or left behind at any moment: the work goes on, and ends in the same bytes and the same curves.

Real processes, real files. What the stages do is counted in changes to their workspace (a file opened for writing,
renamed, deleted …), so that a kill can come just before any of them; kills at random times meet what lies between.
"""

import random
import signal
import time
from itertools import count
from pathlib import Path

import pytest
from small_runs import (
    DONE,
    EVALUATE,
    FAULT_TESTS,
    KILLED,
    LONG,
    PHASE1,
    PHASES,
    RESUMABLE,
    SEED,
    STAGES,
    USER,
    Before,
    Reference,
    Small,
    Stage,
    some,
)
from standstill import wait_until_stopped

from xtts_finetune.core.commands import as_typed

pytestmark = FAULT_TESTS


@pytest.fixture(params=STAGES, ids=" ".join)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage: Stage = request.param
    return stage


def changes(small: Small, stage: Stage, scratch: Path) -> range:
    """Numbers of the changes that an undisturbed stage makes."""
    whole = small.copy(scratch / "whole")
    whole.run(*stage)
    return range(1, whole.events + 1)


def test_killed_before_each_change(before: Before, reference: Reference, stage: Stage, tmp_path: Path) -> None:
    kills = 0
    for event in some(changes(before[stage], stage, tmp_path), 8, stage):
        small = before[stage].copy(tmp_path / f"before-{event}")
        kills += small.start(*stage, at={event: "SIGKILL"}).wait() == KILLED
        reference.check_folders(small)
        small.run(*stage)
        reference.check_stage(small, stage)
        small.remove()
    print(f"{' '.join(stage)}: {kills} kills survived")
    assert kills


def test_killed_again_and_again(before: Before, reference: Reference, tmp_path: Path) -> None:
    """All stages of one workspace after another, each killed at random times until it gets through: twelve kills."""
    chosen = random.Random(SEED)
    kills = 0
    for attempt in count():
        small = before[PHASE1].copy(tmp_path / f"attempt-{attempt}")
        for stage in STAGES:
            for patience in count(1):
                fork = small.start(*stage)
                time.sleep(chosen.uniform(0.3, 0.5 + 0.3 * patience))
                fork.kill()
                if fork.wait() != KILLED:
                    break
                kills += 1
                reference.check_folders(small)
        reference.check(small)
        small.remove()
        if kills >= (120 if LONG else 12):
            break
    print(f"seed {SEED}: {kills} kills survived in {attempt + 1} runs of all stages")


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_killed_just_when_a_phase_is_done(before: Before, reference: Reference, moment: int, tmp_path: Path) -> None:
    """Before DONE is written, before it has its name, and after: MLflow lacks nothing in any case."""
    small = before[PHASE1].copy(tmp_path / "small")
    assert small.start(*PHASE1, at={f"/.DONE.#{moment}": "SIGKILL"}).wait() == KILLED
    assert (small.root / "work" / "phase1" / "DONE").exists() is (moment == 3)
    small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_asked_to_stop_at_any_change(
    before: Before, reference: Reference, stage: Stage, number: str, tmp_path: Path
) -> None:
    """During a step, a save, an evaluation or the export: it ends in order, and then goes on."""
    for event in some(changes(before[stage], stage, tmp_path)[:: 5 if LONG else 1], 2, stage, number):
        small = before[stage].copy(tmp_path / f"before-{event}")
        fork = small.start(*stage, at={event: number})
        code = fork.wait()
        assert code in (DONE, RESUMABLE), fork.said
        assert "Traceback" not in fork.said
        if code == RESUMABLE:
            assert "dvc repro" in (small.root / "reports" / "status.md").read_text()
            small.run(*stage)
        reference.check_stage(small, stage)
        small.remove()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_loses_no_step(
    before: Before, reference: Reference, number: signal.Signals, tmp_path: Path
) -> None:
    """SIGHUP: the ssh connection was dropped."""
    small = before[PHASE1].copy(tmp_path / "small")
    small.change_params(lambda params: params["checkpoints"].update(save_every_steps=100))
    fork = small.start(*PHASE1)
    while not (small.root / "work" / "phase1" / "step-00000000" / "manifest.json").exists():
        time.sleep(0.001)
    fork.kill(number)
    assert fork.wait() == RESUMABLE
    saved = small.states("phase1")[-1]
    assert saved > 0, "by the signal alone"
    assert as_typed(f"phase1 is saved at step {saved}; run dvc repro again to resume") in fork.said
    assert f"resuming phase1 after step {saved}\n" in small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


def test_a_second_trainer_is_refused(before: Before, reference: Reference, tmp_path: Path) -> None:
    small = before[PHASE1].copy(tmp_path / "small")
    first = small.start(*PHASE1, at={100: "SIGSTOP"})
    wait_until_stopped(first.pid)
    held = {path: path.stat().st_mtime_ns for path in (small.root / "work").rglob("*")}
    second = small.start(*PHASE1, log=tmp_path / "second.log")
    try:
        assert second.wait() == USER
        assert f"another trainer is at work here: process {first.pid}" in second.said
        assert f"kill {first.pid}" in second.said
        assert "Traceback" not in second.said
        assert held == {path: path.stat().st_mtime_ns for path in (small.root / "work").rglob("*")}
    finally:
        first.kill(signal.SIGCONT)
        assert first.wait() == DONE, first.said
    reference.check_stage(small, PHASE1)


def test_with_nobody_listening(before: Before, reference: Reference, tmp_path: Path) -> None:
    """stdout and stderr are pipes that nobody reads any more."""
    small = before[PHASE1].copy(tmp_path / "small")
    for stage in STAGES:
        assert small.run_unheard(*stage) == DONE
    reference.check(small)


def test_what_the_others_compare_with(before: Before, reference: Reference) -> None:
    """They would prove nothing of a run that has no steps, learns nothing, or saves nothing on its way."""
    for phase, first in zip(PHASES, (0, 6), strict=True):
        points = reference.whole.points(phase)
        assert [step for step, _ in points["train/mel_ce"]] == [first + step for step in range(1, 7)]
        losses = [value for _, value in points["eval/mel_ce"]]
        assert losses == sorted(losses, reverse=True)
        assert len(set(losses)) == 3
        assert {f"{phase}/step-{first + step:08d}" for step in range(7)} <= reference.folders.keys()
    assert len(reference.whole.versions) == 1
    assert before[EVALUATE].states("phase1") == [5, 6]
