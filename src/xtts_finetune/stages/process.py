"""How the process of a stage begins."""

import os
import signal
from types import FrameType

from xtts_finetune.stages.output import speak_on_unheard
from xtts_finetune.training.interrupts import is_hangup, stop_signals


def begin_process() -> None:
    """Go on whoever listens, and end by signals as by Ctrl-C, which removes what is half-written."""
    # Threads that wait must not spin: on a busy machine steps took four times as long. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the stacks of connections that end
    speak_on_unheard()
    for number in stop_signals():
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if is_hangup(number):
        signal.signal(number, signal.SIG_IGN)
    signal.default_int_handler(number, frame)
