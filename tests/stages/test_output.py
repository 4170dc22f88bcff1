"""A process goes on when nobody hears it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout

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


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("speak_on", ["speak_on_unheard", "spell_out_what_is_lacking"])
def test_a_letter_that_its_encoding_lacks(encoding: str, speak_on: str) -> None:
    code = f"from xtts_finetune.stages.output import {speak_on} as f; f(); print('1 → 2', '\\udcff'); print('the end')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    arrow = "→" if encoding == "utf-8" else "\\u2192"
    assert done.stdout.decode(encoding).splitlines() == [rf"1 {arrow} 2 \udcff", "the end"]


def test_commands_spell_it_out(tmp_path: Path) -> None:
    """A mistake in params.yaml, on a terminal that has no Chinese."""
    (tmp_path / "params.yaml").write_text("声音: 1\n", encoding="utf-8")
    (tmp_path / ".dvc").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "xtts_finetune.cli", "status"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"params.yaml: \u58f0\u97f3" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_who_reads_a_report_may_leave(fresh: Checkout, arguments: list[str]) -> None:
    """As `head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "xtts_finetune.cli", "status", *arguments]
        done = subprocess.run(command, cwd=fresh.root, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert done.stderr == ""
