"""`xtts-finetune repro --for 6h`: dvc repro, which stops with everything saved when the time is up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil

from xtts_finetune.core.deadline import UNTIL
from xtts_finetune.core.errors import EXIT_DONE, EXIT_RESUMABLE
from xtts_finetune.core.layout import Workspace


def repro(workspace: Workspace, seconds: float) -> int:
    """Run `dvc repro` in the workspace, seen as it is there; returns the exit code: 75, where its time was up.

    A stage that trains ends with the step during which the time is up, and saves; no other begins after that.
    """
    until = time.time() + seconds
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=workspace.root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", UNTIL: repr(until)},
    )
    with _passing_on(process):
        code = process.wait()
    if code != EXIT_DONE and time.time() >= until and workspace.stopped.exists():
        return EXIT_RESUMABLE
    return code


@contextmanager
def _passing_on(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Ctrl-C reaches the stage by itself, which saves: it is waited for. What reaches this process alone is passed on.

    DVC would end of it at once, and leave the stage behind.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGTERM)

    taken: dict[int, Any] = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: pass_on}
    before = {number: signal.signal(number, handler) for number, handler in taken.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
