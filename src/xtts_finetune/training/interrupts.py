"""SIGTERM, Ctrl-C, a dropped ssh connection and a time that is up as a request: the loop ends its step and saves."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from xtts_finetune.core.deadline import time_is_up
from xtts_finetune.core.errors import Stopped

_HEARD = b"\nasked to stop: this step is finished and saved first; asked again, it ends at once\n"


class MadeWay(Stopped):
    """A phase stopped only so that it can go on at once, with another machine."""


@dataclass(frozen=True)
class Newcomer:
    """Another machine that may want to take part."""

    waits: Callable[[], bool] = lambda: False
    put_off: Callable[[], None] = lambda: None  # its wish will be heard again later


NOBODY = Newcomer()


class StopRequest:
    """Tells whether this process was asked to stop: by a signal, by its time, or to make way."""

    def __init__(self, newcomer: Newcomer = NOBODY) -> None:
        self.signal: signal.Signals | None = None
        self._newcomer = newcomer

    def __bool__(self) -> bool:
        return self._ends or self._newcomer.waits()

    @property
    def _ends(self) -> bool:
        return self.signal is not None or time_is_up()

    def is_granted(self, is_saved: bool) -> bool:
        """Whether to stop now. For a newcomer alone no step is lost: it is put off where a state has no room."""
        if self._ends or is_saved:
            return True
        self._newcomer.put_off()
        return False

    def granted(self, text: str) -> Stopped:
        """What the process stops with."""
        if self.signal:
            return Stopped(f"{text} (it was asked to stop: {self.signal.name})")
        return Stopped(f"the time that --for gave is up: {text}") if time_is_up() else MadeWay(text)


def stop_signals() -> list[signal.Signals]:
    """Those that ask a process to stop; SIGHUP only where it is not ignored, as under nohup."""
    wanted = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    return wanted


def is_hangup(number: int) -> bool:
    """Of the connection. It is told twice: by the kernel, and by the shell, as bash does; never is it impatience."""
    return sys.platform != "win32" and number == signal.SIGHUP


@contextmanager
def stop_on_signals(is_patient: bool = False, newcomer: Newcomer = NOBODY) -> Iterator[StopRequest]:
    """Catch `stop_signals` while the block runs; a second one acts as it would have without us.

    Args:
        newcomer: asked at every step, too.
        is_patient: a second one is no more than the first. Where a launcher passes a signal on, that is sent to all
            processes, too.
    """
    request = StopRequest(newcomer)
    previous = {number: signal.getsignal(number) for number in stop_signals()}

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        if not is_patient:
            signal.signal(number, signal.SIG_IGN if is_hangup(number) else previous[signal.Signals(number)])
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, _HEARD)  # print may be in the middle of another line

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
