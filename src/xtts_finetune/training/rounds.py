"""What a machine does about rounds: when it lets another one begin, and when it gives up.

A round is the machines whose processes train together. It ends for all when one of the processes dies, or when the
leader has saved because another machine came.
"""

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, Self

import psutil
from torch.distributed.distributed_c10d import Store

from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import EXIT_USER, Stopped
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.messages import Leader, Messages
from xtts_finetune.training.team import ANOTHER_ROUND

RESTARTS = 3  # in a row, of processes that died before they saved anything new; then a phase gives up
OWN_RESTARTS = 1  # likewise, where only a machine that joined fails: it leaves while the others still have patience
_NEWEST = "newest"  # in the store where machines meet: the step of the newest state when a round began


class Head:
    """The machine whose first process leads: no round after a stop, and none in vain."""

    def __init__(self, stop: "Stop", states: CheckpointReader, messages: Messages) -> None:
        self._stop = stop
        self._states = states
        self._messages = messages
        self._newest = -1
        self._in_vain = -1  # rounds, since the newest state was saved

    def before_round(self, store: Store) -> None:
        """Count the round, and tell the others how far the training is.

        Raises:
            KeyboardInterrupt: the leader was asked to stop, and died of it.
            Stopped: nothing new was saved in the rounds before this one.
            Ended: the phase has.
        """
        if self._messages.outcome:
            raise Ended
        if self._stop.is_asked:
            raise KeyboardInterrupt
        self._count(is_change=self._messages.leader == Leader.SAVED)
        self._messages.leader = Leader.STARTING
        store.set(_NEWEST, str(self._newest))

    def _count(self, is_change: bool) -> None:
        newest = max((state.step for state in self._states.states()), default=-1)
        if newest > self._newest:
            self._newest, self._in_vain = newest, 0
        elif not is_change:
            self._in_vain += 1
        if self._in_vain > RESTARTS:
            what = "processes ended too early again and again (why, they said above), with no new state between"
            raise Stopped(f"{what}. What was saved is kept; dvc repro goes on there")
        if self._in_vain > 0 and not is_change:
            print(f"processes ended too early: all begin again ({self._in_vain} of {RESTARTS} in vain)", flush=True)

    def ends_round(self, come: int, gone: int) -> bool:
        """Whether machines that came, or left the round, are to end it. If so, the leader has ended."""
        stage = self._messages.leader
        if stage == Leader.STARTING and (come or gone):
            print(f"another machine has {'come' if come else 'left'}: all begin again, together", flush=True)
            self._end_before_it_begins()
        elif come and stage == Leader.READY:
            print("another machine has come: the leader saves, and all go on together", flush=True)
            self._have_it_saved()
        return bool(come) or (bool(gone) and stage == Leader.STARTING)

    def _end_before_it_begins(self) -> None:
        """There is nothing to save, and the leader may be waiting for one that is gone."""
        self._messages.leader = Leader.SAVED
        if leader := started().get("0"):
            leader.kill()

    def _have_it_saved(self) -> None:
        """However long it takes: torch would kill it after half a minute. Unless it dies, or one that it needs."""
        self._messages.leader = Leader.ASKED
        working = started()
        if "0" in working:
            working["0"].terminate()
        while working and all(map(_works, working.values())):
            time.sleep(0.1)

    def after_round_formed(self, store: Store) -> None:
        """Nothing to do: this machine knows how far the training is."""

    def after_failure(self, codes: list[int]) -> None:
        """Nothing to do: whoever of the processes failed, `before_round` counts."""


class Member:
    """A machine that joined: it leaves when its own processes fail."""

    def __init__(self) -> None:
        self._newest = -1
        self._failures = 0  # since the newest state was saved

    def before_round(self, store: Store) -> None:
        """Nothing to do: the head counts."""

    def ends_round(self, come: int, gone: int) -> bool:
        """Never: the leader ends it for all."""
        return False

    def after_round_formed(self, store: Store) -> None:
        newest = int(store.get(_NEWEST))
        if newest > self._newest:
            self._newest, self._failures = newest, 0

    def after_failure(self, codes: list[int]) -> None:
        """Processes of this machine ended early, with these exit codes, or minus the signals that killed them.

        Raises:
            SystemExit: what is wrong was said, and another round does not mend it.
            Stopped: it was not for the first time.
        """
        own = [code for code in codes if code != ANOTHER_ROUND]
        if EXIT_USER in own:
            sys.exit(EXIT_USER)
        self._failures += bool(own)
        if self._failures > OWN_RESTARTS:
            what = f"processes of this machine ended too early {self._failures} times (exit code {own[0]})"
            killed = "; -9 is a kill, perhaps as its memory was full" if own[0] == -signal.SIGKILL else ""
            what = f"{what}{killed}. It takes no part any more, and the others go on"
            raise Stopped(f"{what}; xtts-finetune join tries again")


Machine = Head | Member


class Ended(Exception):
    """The phase has: no other round begins."""


class Stop:
    """Signals that ask to stop, while processes are at work: the first is a request, the second ends all at once."""

    def __init__(self, act: Callable[[dict[str, psutil.Process]], None]) -> None:
        """`act`: what the first does with the processes that were started, by their local rank."""
        self._act = act
        self.is_asked = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        working = started()
        if working and not self.is_asked:
            self.is_asked = True
            self._act(working)
            return
        leave(working)


def ask_the_leader(working: dict[str, psutil.Process]) -> None:
    """It saves, and ends all; then the launcher ends, too."""
    print("stopping, when all is saved; once more ends it at once", file=sys.stderr, flush=True)
    if "0" in working:
        working["0"].terminate()


def leave(working: dict[str, psutil.Process]) -> NoReturn:
    """The others go on without them."""
    for process in working.values():
        process.kill()
    raise KeyboardInterrupt


def started() -> dict[str, psutil.Process]:
    """The processes that this one started to train, and that are there, by their local rank."""
    found = {}
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ends just now
            found[child.environ().get("LOCAL_RANK", "")] = child
    return {rank: child for rank, child in found.items() if rank}


def _works(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
