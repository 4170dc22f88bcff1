"""The benchmark of the gate still runs: what it found is in docs/speech-measures.md."""

import json
import subprocess
import sys

import pytest
from making.project import PROJECT


@pytest.mark.slow
def test_the_gate_hears_noise() -> None:
    few = ("--pool", "8", "--sentences", "8", "--trials", "4", "--only", "noise 0")
    command = [sys.executable, str(PROJECT / "benchmarks" / "gate.py"), *few]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    *table, figures = run.stdout.splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == ["noise", "nothing: an equal model"]
    assert json.loads(figures)["damaged_refused"]["same"] == 1
    assert json.loads(figures)["equal_refused"]["same"] < 1
