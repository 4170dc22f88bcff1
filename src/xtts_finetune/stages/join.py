"""Another machine's part in a training: `xtts-finetune join`."""

import socket
import sys
import time
from collections.abc import Iterator

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import RendezvousError

from xtts_finetune.core.errors import EXIT_DONE, Problem, Stopped, UserError
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.meeting_place import host_and_port, refuse_unknown_host, rendezvous_of
from xtts_finetune.core.params import LaunchParams, load_params
from xtts_finetune.training.launch import refuse_what_is_lacking, serve
from xtts_finetune.training.meeting import Silent
from xtts_finetune.training.messages import Outcome


def join(workspace: Workspace) -> Iterator[str]:
    """Work for the machine where `dvc repro` runs, until phase 2 is trained; yields what happens.

    Raises:
        UserError: params.yaml does not say where to meet, or asks for what is not here.
        Stopped: the training ended before, or processes of this machine fail.
    """
    launch = load_params(workspace.params).launch
    if launch.nodes == 1:
        remedy = "write how many machines there may be, here and where dvc repro runs"
        alone = Problem(f"{workspace.params}: launch.nodes = 1", "lets no machine join another one", remedy)
        raise UserError("this machine cannot take part", [alone])
    endpoint = rendezvous_of(launch)
    refuse_what_is_lacking(launch)
    refuse_unknown_host(endpoint)
    phase = None
    while phase != PHASES[-1]:
        yield f"waiting for dvc repro at {endpoint} (Ctrl-C ends it)"
        outcome = _served(workspace, endpoint, launch)
        if outcome.code != EXIT_DONE:
            raise Stopped(f"the training at {endpoint} stopped (exit code {outcome.code}); why is said there")
        phase = outcome.phase
        yield f"{phase} is trained"


def _served(workspace: Workspace, endpoint: str, launch: LaunchParams) -> Outcome:
    """What became of the next phase; waits until there is one."""
    reasons = set[str]()
    while True:
        why_not = _unreachable(endpoint)
        if why_not is None:
            try:
                return serve(workspace, launch)
            except Silent:
                why_not = "somebody listens there, and says nothing: another program, or a head that stands still"
            except (RendezvousError, DistError):  # it is there no more; or a phase has just ended
                pass
        if why_not and why_not not in reasons:
            reasons.add(why_not)
            print(f"{endpoint}: {why_not}; trying on", file=sys.stderr, flush=True)
        time.sleep(1)


def _unreachable(endpoint: str) -> str | None:
    """Why nobody is reached, "" where that is usual: the head is not there yet; None: somebody listens."""
    try:
        socket.create_connection(host_and_port(endpoint), timeout=2).close()
    except socket.gaierror as error:
        return f"cannot be looked up now: {error.strerror}"
    except OSError:
        return ""
    return None
