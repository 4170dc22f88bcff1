"""The benchmarks still run: what they measure is in docs/measurements.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from making.prepared import TEXT
from making.project import PROJECT
from making.recordings import sample_clips

from xtts_finetune.model import mini

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As LJSpeech's, with a vocabulary."""
    folder = tmp_path_factory.mktemp("data")
    clips = sample_clips(folder / "wavs", 6)
    lines = [f"{path.stem}|{text}|{text}\n" for path, text in clips]
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    mini.train_vocabulary([(text, "en") for _, text in clips] + [(TEXT, "en")], folder / "vocab.json")
    return folder


def printed(name: str, *arguments: str) -> dict[str, object]:
    command = [sys.executable, str(PROJECT / "benchmarks" / name), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    figures: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return figures


def measured(name: str, data: Path, *arguments: str) -> dict[str, object]:
    return printed(name, *arguments, "--size", "mini", "--data", str(data), "--vocab", str(data / "vocab.json"))


def test_saving(data: Path, tmp_path: Path) -> None:
    figures = measured("saving.py", data, "ours", "--out", str(tmp_path / "run"))
    assert figures["bests"]


def test_a_step_beside_coquis(data: Path) -> None:
    few = ("--steps", "1", "--rounds", "1", "--warm-up", "1", "--clips", "6", "--profile")
    figures = measured("step.py", data, "--variants", "coqui,coqui+threads,fp32,bf16+8bit+checkpointing", *few)
    assert set(figures["variants"]) == {"coqui", "coqui+threads", "fp32", "bf16+8bit+checkpointing"}  # type: ignore[call-overload]


def test_the_codec_beside_coquis(data: Path) -> None:
    run_it = ("codec", "--size", "mini", "--data", str(data), "--rounds", "1", "--profile")
    assert printed("prepare.py", *run_it)["codec"]["times_coqui"][0] > 0  # type: ignore[index]


def test_prepare_and_its_memory(data: Path) -> None:
    assert printed("prepare.py", "stage", "--data", str(data))["stage"]["peak_mb"] > 0  # type: ignore[index]
    assert set(printed("prepare.py", "memory", "--clips", "4")["memory"]["clips"]) == {"4"}  # type: ignore[index]
