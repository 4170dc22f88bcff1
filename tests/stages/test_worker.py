"""A process that follows the leader, and has no memory for it."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="several processes need Linux")]
FOLLOW = """
import torch
from xtts_finetune.stages import worker

def join():
    raise {raised}

worker.Team.join = join
worker.main()
"""


def follow(raised: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RANK": "1", "LOCAL_RANK": "1"}
    command = [sys.executable, "-c", FOLLOW.format(raised=raised)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_it_says_so_in_a_line() -> None:
    ended = follow('torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")')
    assert ended.returncode == 1
    assert "process 1 ends: its memory does not hold the training: CUDA out of memory. Tried" in ended.stderr
    assert "xtts-finetune plan shows what needs less" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_any_other_fault_is_told_with_its_place() -> None:
    ended = follow('RuntimeError("a bug")')
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "a bug" in ended.stderr
