"""`xtts-finetune repro --for 6h`: dvc repro, which stops with everything saved when the time is up."""

import os
import signal
import subprocess
import sys
import time

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
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage, which saves: wait for it
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if code != EXIT_DONE and time.time() >= until and workspace.stopped.exists():
        return EXIT_RESUMABLE
    return code
