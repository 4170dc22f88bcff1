"""One of several processes that train a phase together; `training.launch` starts it.

The leader does what the stage does where there is one process alone; all others follow it.
"""

import ctypes
import os
import signal
import sys

from xtts_finetune.core.errors import EXIT_BUG, EXIT_DONE, UserError, exit_code_of
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.model.device import make_deterministic
from xtts_finetune.stages.process import begin_process
from xtts_finetune.stages.stops import explained_stops
from xtts_finetune.stages.train import train
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.launch import Outcome, report
from xtts_finetune.training.phases import inputs_to_follow
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import HEAD, PeerLost, Team, leads

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Take part in the training of the phase that the arguments name, or that the leader tells."""
    begin_process()
    launcher = os.getppid()
    _heed_the_launcher()
    if not leads():
        for number in stop_signals():  # meant for the leader, which saves, and then lets the others go
            signal.signal(number, signal.SIG_IGN)
    workspace = Workspace.here()
    try:
        team = Team.join()
        outcome = _lead(team, workspace, sys.argv[1]) if team.is_leader else _follow(team, workspace)
    except PeerLost as lost:
        print(f"process {os.environ['RANK']} has lost another: {lost}", file=sys.stderr)
        sys.exit(EXIT_BUG)
    if os.getppid() != launcher:  # which is dead: nobody is there to report to
        sys.exit(outcome.code)
    if os.environ["LOCAL_RANK"] == "0":
        report(outcome)


def _lead(team: Team, workspace: Workspace, name: str) -> Outcome:
    phase: PhaseName = next(phase for phase in PHASES if phase == name)

    def lead() -> None:
        with explained_stops(workspace):
            train(workspace, load_params(workspace.params), phase, team)

    code = exit_code_of(lead)
    team.end(code)
    return Outcome(phase, code)


def _follow(team: Team, workspace: Workspace) -> Outcome:
    work = team.hear_work()
    if "code" in work:
        return Outcome(None, work["code"])
    make_deterministic()
    try:
        share = Share(inputs_to_follow(workspace, work), team)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        team.answer(error.problems[0])
        return Outcome(work["name"], [order.code for order in team.orders()][-1])
    team.answer(None)
    return Outcome(work["name"], share.follow(work))


def _heed_the_launcher() -> None:
    """Do not outlive a killed launcher, which would have started this process again when it dies.

    The leader stops as if it was asked to; it lets those beside it go when it has saved. On another machine nobody
    waits for a process whose launcher is gone: the others go on without it.
    """
    if sys.platform == "linux" and (leads() or HEAD not in os.environ):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM if leads() else signal.SIGKILL)


if __name__ == "__main__":
    main()
    sys.exit(EXIT_DONE)
