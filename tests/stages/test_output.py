"""A process goes on when nobody hears it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEAKER = """
import sys
from xtts_finetune.stages.output import speak_on_unheard
speak_on_unheard()
sys.stdin.read()  # until the reader has left
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("x" * 100_000, file=stream)
        stream.flush()
    print("the end", file=stream)
"""


def speak(out: int) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SPEAKER]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment).returncode


def test_its_reader_has_left() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert speak(writing) == 0
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_its_log_is_on_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        assert speak(full.fileno()) == 0


def test_heard_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert speak(log.fileno()) == 0
    assert (tmp_path / "log").read_text().count("the end\n") == 2
