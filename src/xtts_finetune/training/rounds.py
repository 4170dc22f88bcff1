"""What a machine does about rounds: when it lets another one begin, and when it gives up.

A round is the machines whose processes train together. It ends for all when one of the processes dies, or when the
leader has saved because another machine came.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType

import psutil
from torch.distributed.distributed_c10d import Store

from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import EXIT_USER, Stopped
from xtts_finetune.training.interrupts import is_hangup, stop_signals
from xtts_finetune.training.messages import Leader, Messages
from xtts_finetune.training.team import ANOTHER_ROUND

RESTARTS = 3  # in a row, of processes that died before they saved anything new; then a phase gives up
OTHERS_RESTARTS = 12  # likewise, where the fault was another machine's, which leaves by itself
OWN_RESTARTS = 1  # likewise, of a machine that joined: then it leaves
PUT_OFF = timedelta(minutes=1)  # until a machine that came while the disk was full is heard again
SAVING = timedelta(minutes=2)  # a state of 5.3 GB on a disk of 50 MB/s
_STARTING = 1  # seconds: far more than the kernel takes to put a program in its place
_NEWEST = "newest"  # in the store where machines meet: the step of the newest state when a round began


class Head:
    """The machine whose first process leads: no round after a stop, and none in vain."""

    def __init__(self, messages: Messages, states: CheckpointReader) -> None:
        self.is_stopped = False  # by a signal
        self._messages = messages
        self._states = states
        self._newest = -1
        self._in_vain = 0  # rounds, since the newest state was saved
        self._others = 0  # those of them that other machines ended
        self._is_others = False  # whether the last one is of those
        self._hears_at = 0.0  # whether another machine has come, by the monotonic clock

    def before_round(self, store: Store) -> None:
        """Count the round that ended, and tell the others how far the training is.

        Raises:
            KeyboardInterrupt: the leader was asked to stop, and died of it.
            Stopped: nothing new was saved in the rounds before this one.
            Ended: the phase has.
        """
        if self._messages.outcome:
            raise Ended
        if self.is_stopped:
            raise KeyboardInterrupt
        newest = max((state.step for state in self._states.states()), default=-1)
        if newest > self._newest:
            self._newest, self._in_vain, self._others = newest, 0, 0
        if self._messages.leader not in (Leader.NONE, Leader.SAVED):
            self._count()
        self._messages.leader, self._is_others = Leader.NONE, False
        store.set(_NEWEST, str(self._newest))

    def _count(self) -> None:
        """A round that ended too early."""
        self._in_vain += not self._is_others
        self._others += self._is_others
        if self._in_vain > RESTARTS or self._others > OTHERS_RESTARTS:
            what = "processes ended too early again and again (why, they said above), with no new state between"
            raise Stopped(f"{what}. What was saved is kept; dvc repro goes on there")
        whose = "of another machine " if self._is_others else ""
        count = f"{self._others} of {OTHERS_RESTARTS}" if self._is_others else f"{self._in_vain} of {RESTARTS}"
        print(f"processes {whose}ended too early: all begin again ({count} without a new state)", flush=True)

    def before_start(self, store: Store) -> None:
        """Processes of this machine are about to be started."""
        self._messages.leader = Leader.STARTING

    def ends_round(self, come: int, gone: int, is_over: bool) -> bool:
        """Whether machines that wait, or have left, are to end the round. If so, the leader has ended."""
        stage = self._messages.leader
        if self.is_stopped or self._messages.outcome:
            return False
        if stage == Leader.STARTING and (come or gone):
            print(f"another machine has {'come' if come else 'left'}: all begin again, together", flush=True)
            kill(started())  # they may be waiting for one that is gone
            self._messages.leader = Leader.SAVED  # there was nothing to save
            return True
        if stage == Leader.READY and come and time.monotonic() > self._hears_at:
            print("another machine has come: the leader saves, and all go on together", flush=True)
            return self._has_made_way()
        return False

    def _has_made_way(self) -> bool:
        """Have the leader save, however long it takes. Torch would kill it after half a minute."""
        self._messages.leader = Leader.ASKED
        working = started()
        while working and all(map(_works, working.values())) and self._messages.leader != Leader.READY:
            time.sleep(0.1)
        if self._messages.leader == Leader.READY:
            print("the disk has no room for a state: the other machine waits until there is", flush=True)
            self._hears_at = time.monotonic() + PUT_OFF.total_seconds()
        return self._messages.leader == Leader.SAVED

    def after_failure(self, codes: list[int], machines: int) -> None:
        """Processes of this machine ended early: the exit codes, or minus the signals; first of those at fault.

        A leader that has met the others hears of it from their connections, and brings a save to its end: torch would
        give it half a minute.
        """
        self._is_others = codes[0] == ANOTHER_ROUND and machines > 1
        if self._messages.leader == Leader.STARTING:
            return
        leader, deadline = started().get("0"), time.monotonic() + SAVING.total_seconds()
        while leader and _works(leader) and time.monotonic() < deadline:
            time.sleep(0.1)


class Member:
    """A machine that joined: it leaves when its own processes fail."""

    def __init__(self) -> None:
        self._newest = -1
        self._failures = 0  # since the newest state was saved

    def before_round(self, store: Store) -> None:
        """Nothing to do: the head counts."""

    def before_start(self, store: Store) -> None:
        """Hear how far the training is."""
        newest = int(store.get(_NEWEST))
        if newest > self._newest:
            self._newest, self._failures = newest, 0

    def ends_round(self, come: int, gone: int, is_over: bool) -> bool:
        """When the head says so. There is nothing to save here."""
        if is_over:
            kill(started())
        return is_over

    def after_failure(self, codes: list[int], machines: int) -> None:
        """As of the head.

        Raises:
            SystemExit: what is wrong was said, and another round does not mend it.
            Stopped: it was not for the first time.
        """
        first = codes[0]
        if first == EXIT_USER:
            sys.exit(EXIT_USER)
        self._failures += first != ANOTHER_ROUND
        why = "this round is over" if first == ANOTHER_ROUND else f"a process of this machine ended early ({first})"
        print(f"{why}: all begin again", flush=True)
        if self._failures > OWN_RESTARTS:
            what = f"processes of this machine ended too early {self._failures} times (exit code {first})"
            killed = "; -9 is a kill, perhaps as its memory was full" if first == -signal.SIGKILL else ""
            what = f"{what}{killed}. It takes no part any more, and the others go on"
            raise Stopped(f"{what}; xtts-finetune join tries again")


Machine = Head | Member


class Ended(Exception):
    """The phase has: no other round begins."""


@contextmanager
def stopped_by_signals(head: Head | None, messages: Messages) -> Iterator[None]:
    """While processes train: the first signal has the leader save and end all, the second ends all at once.

    A machine that joined leaves with the first: the others go on without it.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        if is_hangup(number):
            signal.signal(number, signal.SIG_IGN)
        working = started()
        leader = working.get("0")
        if head and leader and not head.is_stopped and messages.leader != Leader.STARTING:
            head.is_stopped = True
            print("stopping, when all is saved; once more ends it at once", file=sys.stderr, flush=True)
            leader.terminate()
            return
        kill(working)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, on_signal) for number in stop_signals()}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def kill(processes: dict[str, psutil.Process]) -> None:
    for process in processes.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    while any(map(_works, processes.values())):
        time.sleep(0.01)


def started() -> dict[str, psutil.Process]:
    """The processes that this one started to train, and that are there, by their local rank."""
    found = {}
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ends just now
            found[_environment(child).get("LOCAL_RANK", "")] = child
    return {rank: child for rank, child in found.items() if rank}


def _environment(process: psutil.Process) -> dict[str, str]:
    """Of a process that may have been started just now: Linux shows none until the program is in its place."""
    deadline = time.monotonic() + _STARTING
    environment: dict[str, str] = process.environ()
    while not environment and time.monotonic() < deadline:
        time.sleep(0.001)
        environment = process.environ()
    return environment


def _works(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
