"""SIGTERM, Ctrl-C and a dropped ssh connection as a request: the loop finishes its step, saves and ends."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from xtts_finetune.core.errors import Stopped


class MadeWay(Stopped):
    """A phase stopped only so that it can go on at once, with another machine."""


class StopRequest:
    """Tells whether this process was asked to stop: by a signal, or to make way."""

    def __init__(self, must_make_way: Callable[[], bool] = lambda: False) -> None:
        self.signal: signal.Signals | None = None
        self._must_make_way = must_make_way

    def __bool__(self) -> bool:
        return self.signal is not None or self._must_make_way()

    def granted(self, text: str) -> Stopped:
        """What the process stops with."""
        return Stopped(text) if self.signal else MadeWay(text)


def stop_signals() -> list[signal.Signals]:
    """Those that ask a process to stop; SIGHUP only where it is not ignored, as under nohup."""
    wanted = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    return wanted


@contextmanager
def stop_on_signals(
    is_patient: bool = False, must_make_way: Callable[[], bool] = lambda: False
) -> Iterator[StopRequest]:
    """Catch `stop_signals` while the block runs; a second one acts as it would have without us.

    Args:
        must_make_way: asked at every step, too.
        is_patient: a second one is no more than the first. Where a launcher passes a signal on, that is sent to all
            processes, too.
    """
    request = StopRequest(must_make_way)
    previous = {number: signal.getsignal(number) for number in stop_signals()}

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        if is_patient:
            return
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
