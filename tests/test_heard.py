"""A phase that is heard while it trains, as processes: the weights are those of one that nobody hears."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from making.prepared import TEXT
from making.project import PROJECT
from safetensors.torch import load_file, save_file
from small_runs import DONE, FAULT_TESTS, PHASE1, RESUMABLE, Before, Small

from xtts_finetune.core.files import temporary_name
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import load_params

pytestmark = FAULT_TESTS


@pytest.fixture
def heard(before: Before, tmp_path: Path) -> Small:
    """Before phase 1, which is to be heard at every evaluation."""
    small = before[PHASE1].copy(tmp_path / "heard")
    small.change_params(lambda params: params["samples"].update(every_evaluations=1))
    return small


def speakers(of: Small) -> list[psutil.Process]:
    """Other tests, and other people, have theirs."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        is_here = process.info["cwd"] == os.path.realpath(of.root)
        if is_here and "xtts_finetune.stages.speaking" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def wait_until(what: Any, seconds: float = 120.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_the_weights_are_those_of_a_run_that_nobody_hears(heard: Small, tmp_path: Path) -> None:
    """Which is stopped until somebody has spoken, who comes last on a busy machine; MLflow has it, too."""
    heard.change_params(lambda params: params["train_phase1"].update(epochs=60))
    heard.change_params(lambda params: params["checkpoints"].update(save_every_steps=1000))
    unheard = heard.copy(tmp_path / "unheard")
    unheard.change_params(lambda params: params["samples"].update(every_evaluations=None))
    unheard.run(*PHASE1)
    trainer = heard.start(*PHASE1)
    wait_until(lambda: speakers(heard))
    trainer.kill(signal.SIGSTOP)
    wait_until(lambda: list((heard.root / "work" / "phase1" / "samples").glob("step-*/sentences.csv")), seconds=600)
    trainer.kill(signal.SIGCONT)
    assert trainer.wait() == DONE, trainer.said
    assert heard.results("phase1") == unheard.results("phase1")
    said = list((heard.root / "mlruns").rglob("samples/step-*/1.wav"))
    assert said
    assert not list((unheard.root / "mlruns").rglob("samples/step-*"))
    assert heard.leftovers() == []
    assert speakers(heard) == []


def test_who_speaks_ends_when_the_trainer_is_killed_and_the_next_start_clears_up(heard: Small) -> None:
    heard.change_params(lambda params: params["train_phase1"].update(epochs=1000))
    for _ in range(2):
        trainer = heard.start(*PHASE1)
        [speaker] = wait_until(lambda: speakers(heard))
        [link] = (heard.root / "work" / "phase1").glob(".samples.read.*/model.safetensors")
        trainer.kill()
        trainer.wait()
        speaker.wait(60)
        assert link.exists()
    page = Workspace(heard.root).status_page
    page.write_text("# Stopped", encoding="utf-8")
    again = heard.start(*PHASE1)
    wait_until(lambda: not link.exists())
    wait_until(lambda: "training: phase1" in page.read_text(encoding="utf-8").lower())
    again.kill(signal.SIGTERM)
    assert again.wait() == RESUMABLE
    assert not list(heard.root.rglob(".*.tmp"))
    assert speakers(heard) == []


def test_what_it_says_is_that_of_the_weights_and_stands_on_the_page(heard: Small) -> None:
    """By hand, as nobody waits for the process that speaks: a phase of six steps ends before it."""
    heard.run(*PHASE1)
    [*_, best] = (heard.root / "checkpoints" / "phase1").glob("best-*/model.safetensors")
    other = heard.root / "other.safetensors"
    save_file({name: -tensor for name, tensor in load_file(best).items()}, other)
    workspace = Workspace(heard.root)
    sounds = []
    for step, weights in enumerate((best, best, other)):
        own = temporary_name(heard.root / "work" / "phase1" / "samples.read") / "model.safetensors"
        own.parent.mkdir(parents=True)
        os.link(weights, own)
        done = speak(heard, step, own)
        assert done.returncode == 0, done.stderr
        assert not own.exists(), "it holds their room"
        assert weights.exists()
        folder = workspace.spoken("phase1", step)
        rows = list(csv.DictReader(io.StringIO((folder / "sentences.csv").read_text(encoding="utf-8"))))
        assert rows == [{"file": "1.wav", "text": TEXT}]
        sounds.append((folder / "1.wav").read_bytes())
    assert sounds[0] == sounds[1] != sounds[2]
    page = workspace.report_page.read_text(encoding="utf-8")
    assert "phase1 as it trains" in page
    assert "step 2" in page
    assert page.count("data:audio/ogg;base64,") == 3


def test_one_whose_trainer_is_gone_says_nothing(heard: Small) -> None:
    done = speak(heard, 3, heard.root / "nowhere.safetensors", has_trainer=False)
    assert done.returncode == 1
    assert not (heard.root / "work" / "phase1" / "samples").exists()


def speak(small: Small, step: int, weights: Path, has_trainer: bool = True) -> subprocess.CompletedProcess[bytes]:
    """As `stages.samples` starts it; its end of the pipe is open while the trainer lives."""
    command = [sys.executable, "-m", "xtts_finetune.stages.speaking", "phase1", str(step), str(weights)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    reading, writing = os.pipe()
    params = load_params(Workspace(small.root).params)
    os.write(writing, f"{params.model_dump_json()}\n".encode())
    if not has_trainer:
        os.close(writing)
    done = subprocess.run(command, cwd=small.root, env=environment, stdin=reading, capture_output=True, check=False)
    for end in (reading, *([writing] if has_trainer else [])):
        os.close(end)
    return done
