"""One of several processes that train a phase together; `training.launch` starts it.

The leader does what the stage does where there is one process alone; all others follow it.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from torch.distributed import DistError

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import EXIT_BUG, EXIT_DONE, EXIT_RESUMABLE, EXIT_USER, UserError, exit_code_of
from xtts_finetune.core.layout import Workspace
from xtts_finetune.model.device import device_in_words, make_deterministic
from xtts_finetune.stages.memory import is_out_of_memory, said_of
from xtts_finetune.stages.process import begin_process
from xtts_finetune.stages.stops import explained_stops
from xtts_finetune.stages.train import train
from xtts_finetune.training.interrupts import MadeWay, Newcomer, stop_signals
from xtts_finetune.training.messages import Leader, Messages, Outcome
from xtts_finetune.training.phases import inputs_to_follow
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import ANOTHER_ROUND, HEAD, PeerLost, Team, leads


def main() -> NoReturn:
    """Take part in the training of the phase that the launcher names, or that the leader tells."""
    begin_process()
    launcher_lives = _heed_the_launcher()
    if not leads():
        for number in stop_signals():  # meant for the leader, which saves, and then lets the others go
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by the launcher itself
    is_met = False
    try:
        team = Team.join()
        is_met = True
        outcome = _lead(team) if team.is_leader else _follow(team)
        if outcome.code != ANOTHER_ROUND and os.environ["LOCAL_RANK"] == "0" and launcher_lives():
            Messages.to_launcher().report(outcome)
        if team.is_leader:
            team.end(outcome.phase, outcome.code)
    except PeerLost as lost:
        print(f"process {os.environ['RANK']} ends: another one is gone ({lost})", file=sys.stderr)
        _end(ANOTHER_ROUND if is_met else EXIT_BUG)
    except KeyboardInterrupt:
        _end(EXIT_RESUMABLE)
    except Exception as error:  # noqa: BLE001 - whatever it was, the process must not stay behind
        if is_out_of_memory(error):  # the leader, which would save, has not failed: its own end is Stopped
            less = as_typed("xtts-finetune plan shows what needs less")
            what = f"its memory does not hold the training: {said_of(error)}"
            print(f"process {os.environ['RANK']} ends: {what}; {less}", file=sys.stderr)
        else:
            traceback.print_exc()
        _end(EXIT_BUG)
    _end(ANOTHER_ROUND if outcome.code == ANOTHER_ROUND else EXIT_DONE)


def _lead(team: Team) -> Outcome:
    messages = Messages.to_launcher()
    messages.leader = Leader.READY
    phase, params = messages.work
    is_change = False

    def waits() -> bool:
        with suppress(DistError):  # the launcher is gone
            return messages.leader == Leader.ASKED
        return False

    def put_off() -> None:
        with suppress(DistError):
            messages.leader = Leader.READY

    def lead() -> None:
        nonlocal is_change
        workspace = Workspace.here()
        with explained_stops(workspace):
            try:
                train(workspace, params, phase, team, Newcomer(waits, put_off))
            except KeyboardInterrupt:  # in the middle of anything the others cannot be told
                _end(EXIT_RESUMABLE)
            except MadeWay:
                is_change = True

    code = exit_code_of(lead)
    if is_change:
        code = ANOTHER_ROUND
        with suppress(DistError):
            messages.leader = Leader.SAVED
    return Outcome(phase, code)


def _follow(team: Team) -> Outcome:
    work = team.hear_work()
    if "code" in work:
        return Outcome(work["name"], work["code"])
    make_deterministic()
    try:
        share = Share(inputs_to_follow(Workspace.here(), work), team)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(EXIT_USER)
    if os.environ["LOCAL_RANK"] == "0":
        print(f"{work['name']} trains {device_in_words()}, too{team.in_words}", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leader may need this process to get to where it can save
    return Outcome(work["name"], share.follow(work))


def _end(code: int) -> NoReturn:
    """At once: the others learn it from the connections that close.

    Python's own way to end lets go of connections that torch's threads still use: about one process in ten aborted
    there, though all of its work was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _heed_the_launcher() -> Callable[[], bool]:
    """Do not outlive a killed launcher, which would have started this process again; returns whether it lives.

    The leader stops as if it was asked to, and lets those beside it go when it has saved. On another machine nobody
    waits for a process whose launcher is gone: the others go on without it.
    """
    launcher = os.getppid()

    def lives() -> bool:
        return os.getppid() == launcher

    def watch() -> None:
        while lives():
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM if leads() else signal.SIGKILL)

    if leads() or HEAD not in os.environ:
        threading.Thread(target=watch, daemon=True).start()
    return lives


if __name__ == "__main__":
    main()
