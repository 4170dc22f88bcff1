"""XTTS v2's true shapes, 441,018,563 random weights, through every stage, killed on the way: fp32 on a CPU, in 20 GB.

In bf16, which most processors emulate, it would take hours; tests/planning/test_memory.py has its steps in bf16.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from checkouts import Checkout, killed_on_failure
from making import workspaces
from making.params import ParamsFile, be_quick
from making.project import PROJECT
from making.recordings import add_samples
from tracked import versions

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]
PARAMETERS = 441_018_563
MEMORY = 20e9  # bytes
FOLDER = "voices/full"  # relative to the checkout
WRITE = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from making.bases import write_published
write_published(Path(sys.argv[2]), sorted(Path(sys.argv[3]).iterdir()), true_size=True)
"""
LOAD = """
import sys
import numpy
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts
config = XttsConfig()
config.load_json(sys.argv[1] + "/config.json")
model = Xtts(config)
model.load_checkpoint(config, checkpoint_dir=sys.argv[1])
model.gpt.max_gen_mel_tokens = 10
spoken = model.synthesize("Welcome back!", speaker="anna", language="en")["wav"]
assert numpy.isfinite(spoken).all() and len(spoken) > 0
print(sum(parameter.numel() for parameter in model.gpt.parameters()))
"""


def on_it(params: ParamsFile) -> None:
    be_quick(params)
    params["base"] = f"../{FOLDER}"
    for phase in ("train_phase1", "train_phase2"):  # 8 bits: a state is half as large, and written in half the time
        params[phase] |= {"epochs": 1, "batch_size": 2, "lr": 1e-5, "optim": "adamw8bit"}
    params["checkpoints"] = {"save_every_steps": 2, "keep_last": 1}


class Peak:
    """Bytes that this process's children have held at the most: together whenever it looked, or one of them ever."""

    bytes = 0

    def look(self) -> None:
        held = 0
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
                held += child.memory_full_info().pss
                self.bytes = max(self.bytes, most_ever(child.pid))
        self.bytes = max(self.bytes, held)


def most_ever(pid: int) -> int:
    """Bytes, by the kernel's own count: what is held for less than a moment is in it."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def memory_watched() -> Iterator[Peak]:
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(2):  # counting the pages of gigabytes takes a processor a while
            peak.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def kill_after_a_state(checkout: Checkout) -> int:
    """Its step."""
    process = checkout.start("dvc", "repro")
    with killed_on_failure(process):
        while not (manifests := sorted(checkout.root.glob("work/phase1/step-*[1-9]/manifest.json"))):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return int(manifests[-1].parent.name.removeprefix("step-"))


def test_every_stage(tmp_path: Path) -> None:
    checkout = workspaces.cloned(tmp_path / "checkout")
    add_samples(checkout.root / "data", 8)
    checkout.run("python", "-c", WRITE, str(PROJECT / "tests"), FOLDER, "data/wavs")
    workspaces.add_data(checkout, on_it)
    with memory_watched() as peak:
        step = kill_after_a_state(checkout)
        assert f"resuming phase1 after step {step}" in checkout.repro()
    print(f"killed after step {step}; at the most {peak.bytes / 1e9:.1f} GB of memory")
    assert 0 < peak.bytes < MEMORY
    assert checkout.json("prepared/base/base.json")["gpt"]["parameters"] == PARAMETERS
    for phase in ("phase1", "phase2"):
        report = checkout.json(f"reports/train_{phase}.json")
        assert report["eval"]["mel_ce"] < report["start"]["mel_ce"]
        assert (checkout.root / f"models/{phase}/model.safetensors").stat().st_size / 4 / PARAMETERS < 1.001
        assert_spoken(checkout.root / f"reports/samples/{phase}/1.wav")
    assert len(versions(checkout)) == 1
    export_and_load(checkout, "champion", tmp_path / "half")


def assert_spoken(file: Path) -> None:
    sound, rate = soundfile.read(file)
    assert rate == 24_000
    assert np.isfinite(sound).all() and len(sound) > 0


def export_and_load(checkout: Checkout, what: str, folder: Path) -> None:
    """In fp16, which takes half the room."""
    checkout.run("xtts-finetune", "export", what, str(folder), "--speaker", "anna", "--half")
    said = checkout.run("python", "-c", LOAD, str(folder)).stdout
    assert int(said.splitlines()[-1]) >= PARAMETERS
    assert 0.8e9 < sum(file.stat().st_size for file in folder.iterdir()) < 1.0e9
