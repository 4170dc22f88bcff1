"""Training stopped by force, by request or left behind: the next `dvc repro` ends in the same bytes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tracked
from checkouts import Checkout, killed_on_failure
from standstill import stop_all

from xtts_finetune.core.commands import as_typed

STEPS = list(range(1, 7))  # of phase 1
PATIENCE = 300  # seconds until a process that does not get on has failed


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Returns when it did; fails when the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if process.poll() is not None:
            raise AssertionError(f"ended too early with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.005)


def train_to_step_2(checkout: Checkout, *command: str) -> "subprocess.Popen[str]":
    """Start a command that trains phase 1 (saving every other step) and wait for its second step's state."""
    process = checkout.start(*command)
    state = checkout.root / "work" / "phase1" / "step-00000002"
    with killed_on_failure(process):
        wait_until(state.exists, process)
    return process


def newest_state(checkout: Checkout) -> int:
    states = (checkout.root / "work" / "phase1").glob("step-*/manifest.json")
    return max(int(manifest.parent.name.removeprefix("step-")) for manifest in states)


def assert_as_if_never_stopped(checkout: Checkout, finished: Checkout) -> None:
    """Outs and reports have the bytes of the other run; MLflow has one run, no gap, and no step twice."""
    for path, item in finished.lock()["train_phase1"].items():
        assert checkout.lock()["train_phase1"][path]["md5"] == item["md5"], path
    [run] = tracked.runs(checkout)["phase1"]
    [undisturbed] = tracked.runs(finished)["phase1"]
    assert run.info.status == "FINISHED"
    for metric in ("train/mel_ce", "train/text_ce", "eval/mel_ce", "eval/text_ce"):
        assert tracked.history(checkout, run, metric) == tracked.history(finished, undisturbed, metric)
    assert [step for step, _ in tracked.history(checkout, run, "train/mel_ce")] == STEPS
    assert checkout.leftovers() == []


@pytest.mark.slow
def test_killed_like_in_a_power_cut_it_resumes(untrained: Checkout, finished: Checkout) -> None:
    process = train_to_step_2(untrained, "dvc", "repro", "train_phase1")
    os.killpg(process.pid, signal.SIGKILL)  # dvc, its shell and the trainer
    process.communicate()
    assert not (untrained.root / "work" / "phase1" / "DONE").exists(), "the kill came too late to show anything"
    step = newest_state(untrained)
    assert f"resuming phase1 after step {step}\n" in untrained.repro("train_phase1")
    assert_as_if_never_stopped(untrained, finished)


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_says_so(untrained: Checkout, finished: Checkout) -> None:
    trainer = train_to_step_2(untrained, "python", "-m", "xtts_finetune.stages", "train", "phase1")
    trainer.terminate()
    _, said = trainer.communicate()
    step = newest_state(untrained)
    assert trainer.returncode == 75
    assert as_typed(f"stopped: phase1 is saved at step {step}; run dvc repro again to resume") in said
    assert "Traceback" not in said
    [run] = tracked.runs(untrained)["phase1"]
    assert run.info.status == "KILLED"
    assert [at for at, _ in tracked.history(untrained, run, "train/mel_ce")] == list(range(1, step + 1))
    assert f"resuming phase1 after step {step}\n" in untrained.repro("train_phase1")
    assert_as_if_never_stopped(untrained, finished)


@pytest.mark.slow
def test_ctrl_c_stops_dvc_and_the_trainer(untrained: Checkout, finished: Checkout) -> None:
    process = train_to_step_2(untrained, "dvc", "repro", "train_phase1")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, said = process.communicate()
    assert process.returncode != 0
    assert "is saved at step" in said
    untrained.repro("train_phase1")
    assert_as_if_never_stopped(untrained, finished)


@pytest.mark.slow
def test_a_trainer_left_behind_is_not_joined_by_another(untrained: Checkout, finished: Checkout) -> None:
    """Killing dvc alone leaves its trainer at work. What that ends with is taken over, not trained again."""
    process = train_to_step_2(untrained, "dvc", "repro", "train_phase1")
    try:
        stop_all(process.pid)  # so that the trainer is still there
        process.kill()
        process.wait()
        second = untrained.stage("train", "phase1", code=2)
        assert "another trainer is at work here" in second.stderr
        assert "Traceback" not in second.stderr
        os.killpg(process.pid, signal.SIGCONT)
        wait_for_file(untrained.root / "reports" / "train_phase1.json")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    said = untrained.repro("train_phase1")
    assert "resuming" not in said
    assert "phase1: epoch" not in said
    assert_as_if_never_stopped(untrained, finished)


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_in_the_time_that_it_is_given(untrained: Checkout, finished: Checkout) -> None:
    """As before a machine must be given back: it ends with 75, says where it goes on, and no stage begins any more."""
    said = untrained.run("xtts-finetune", "repro", "--for", "0.001s", code=75)
    assert "the time that --for gave was up before phase1 began; run" in said.stderr
    assert "stopped" in untrained.run("xtts-finetune", "status").stdout.splitlines()[0]
    untrained.run("xtts-finetune", "repro", "--for", "1d")
    assert untrained.files("models") == finished.files("models")
    assert untrained.json("reports/train_phase2.json") == finished.json("reports/train_phase2.json")
    assert "trained, evaluated and registered" in untrained.run("xtts-finetune", "status").stdout.splitlines()[0]


@pytest.mark.parametrize("written", ["soon", "6", "0h"])
def test_what_is_no_time(fresh: Checkout, written: str) -> None:
    said = fresh.run("xtts-finetune", "repro", "--for", written, code=2).stderr
    assert "write it as 6h, 90m or 1h30m" in " ".join(said.split())
