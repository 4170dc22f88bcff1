"""The lock of a phase, beside others who only want to know whether it is held."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from xtts_finetune.checkpoints.lock import locked, trained_now, trainers_kept_out
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace, holder_of
from xtts_finetune.core.processes import ProcessMark

START = """
import sys
from pathlib import Path
from xtts_finetune.checkpoints.lock import locked, trained_now
from xtts_finetune.core.layout import Workspace
workspace = Workspace(Path(sys.argv[1]))
"""
POLL = "print(flush=True)\nwhile True: trained_now(workspace)"
HOLD = "import time\nwith locked(workspace.work('phase1')):\n    print(flush=True)\n    time.sleep(600)"


@contextmanager
def process(code: str, workspace: Workspace) -> Iterator["subprocess.Popen[str]"]:
    """One that has begun with it; killed at the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", START + code, str(workspace.root)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "\n"
            yield running
        finally:
            running.kill()


def rewrite_holder(workspace: Workspace, mark: ProcessMark, host: str) -> None:
    """As a process would have left it."""
    holder_of(workspace.work("phase1")).write_text(
        json.dumps({"process": str(mark), "host": host, "who": "another trainer"}), encoding="utf-8"
    )


def test_no_start_is_refused_beside_one_that_looks(workspace: Workspace) -> None:
    with locked(workspace.work("phase1")):
        pass
    with process(POLL, workspace) as poller:
        for _ in range(2000):
            with locked(workspace.work("phase1")):
                pass
        assert poller.poll() is None


def test_who_looks_sees_the_holder_and_leaves_nothing(workspace: Workspace) -> None:
    assert trained_now(workspace) == set()
    assert list(workspace.root.iterdir()) == []
    with process(HOLD, workspace):
        assert trained_now(workspace) == {"phase1"}
        with trainers_kept_out(workspace) as live:
            assert live == {"phase1"}
            assert trained_now(workspace) == {"phase1"}, "who clears files away trains nothing"
    assert trained_now(workspace) == set(), "death released it, though its name still stands there"
    assert holder_of(workspace.work("phase1")).exists()
    with trainers_kept_out(workspace) as live:
        assert live == set()


def test_a_number_given_again_holds_nothing(workspace: Workspace) -> None:
    with locked(workspace.work("phase1")):
        own = ProcessMark.own()
        rewrite_holder(workspace, replace(own, started=own.started - 1), "here")
        assert trained_now(workspace) == set()
        with pytest.raises(UserError, match=r"another trainer is at work here\n.*or find it"):
            locked(workspace.work("phase1")).__enter__()


def test_one_of_another_host_is_named_with_it(workspace: Workspace) -> None:
    with locked(workspace.work("phase1")):
        rewrite_holder(workspace, replace(ProcessMark.own(), host="0" * 8), "gpu-box")
        assert trained_now(workspace) == set()
        with pytest.raises(UserError, match=f"process {os.getpid()} on gpu-box, .*\n.*stop it on gpu-box: "):
            locked(workspace.work("phase1")).__enter__()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"process": "12", "host": "x", "who": "y"}'])
def test_a_damaged_holder_is_none(workspace: Workspace, content: str) -> None:
    with locked(workspace.work("phase1")):
        holder_of(workspace.work("phase1")).write_text(content)
        assert trained_now(workspace) == set()
