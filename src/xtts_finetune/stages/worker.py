"""One of several processes that train a phase together; `training.launch` starts it.

The leader does what the stage does where there is one process alone; all others follow it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from xtts_finetune.core.errors import EXIT_BUG, EXIT_DONE, EXIT_RESUMABLE, EXIT_USER, UserError, exit_code_of
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.model.device import device_in_words, make_deterministic
from xtts_finetune.stages.process import begin_process
from xtts_finetune.stages.stops import explained_stops
from xtts_finetune.stages.train import train
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.launch import Outcome, report
from xtts_finetune.training.phases import inputs_to_follow
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import HEAD, PeerLost, Team, leads


def main() -> None:
    """Take part in the training of the phase that the arguments name, or that the leader tells."""
    begin_process()
    launcher_lives = _heed_the_launcher()
    if not leads():
        for number in stop_signals():  # meant for the leader, which saves, and then lets the others go
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by the launcher itself
    workspace = Workspace.here()
    try:
        team = Team.join()
        outcome = _lead(team, workspace, sys.argv[1]) if team.is_leader else _follow(team, workspace)
    except PeerLost:
        print(f"process {os.environ['RANK']} ends: another one is gone", file=sys.stderr)
        sys.exit(EXIT_BUG)
    except KeyboardInterrupt:
        _end_at_once()
    if os.environ["LOCAL_RANK"] == "0" and launcher_lives():
        report(outcome)


def _lead(team: Team, workspace: Workspace, name: str) -> Outcome:
    phase: PhaseName = next(phase for phase in PHASES if phase == name)

    def lead() -> None:
        with explained_stops(workspace):
            try:
                train(workspace, load_params(workspace.params), phase, team)
            except KeyboardInterrupt:
                _end_at_once()

    code = exit_code_of(lead)
    team.end(phase, code)
    return Outcome(phase, code)


def _follow(team: Team, workspace: Workspace) -> Outcome:
    work = team.hear_work()
    if "code" in work:
        return Outcome(work["name"], work["code"])
    make_deterministic()
    try:
        share = Share(inputs_to_follow(workspace, work), team)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    if os.environ["LOCAL_RANK"] == "0":
        print(f"{work['name']} trains {device_in_words()}, too{team.in_words}", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leader may need this process to get to where it can save
    return Outcome(work["name"], share.follow(work))


def _end_at_once() -> NoReturn:
    """In the middle of anything the others cannot be told: they learn it from the connection."""
    sys.stdout.flush()
    os._exit(EXIT_RESUMABLE)


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
    sys.exit(EXIT_DONE)
