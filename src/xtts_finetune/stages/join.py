"""Another machine's part in a training: `xtts-finetune join`."""

import socket
import time
from collections.abc import Iterator

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import RendezvousError

from xtts_finetune.core.errors import EXIT_DONE, Stopped
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.stages.process import begin_process
from xtts_finetune.training.launch import rendezvous_of, serve


def join(workspace: Workspace) -> Iterator[str]:
    """Work for the machine where `dvc repro` runs, until phase 2 is trained; yields what happens.

    Raises:
        UserError: params.yaml does not say where to meet, or asks for what is not here.
        Stopped: the training ended before.
    """
    begin_process()
    launch = load_params(workspace.params).launch
    endpoint = rendezvous_of(launch)
    while True:
        yield f"waiting for dvc repro at {endpoint}"
        _await(endpoint)
        yield f"training with {endpoint}"
        try:
            outcome = serve(launch)
        except (RendezvousError, DistError) as error:  # between two phases, too
            yield f"{endpoint} does not answer any more: {error}"
            continue
        if outcome.code != EXIT_DONE:
            raise Stopped(f"the training at {endpoint} stopped (exit code {outcome.code}); why is said there")
        if outcome.phase == PHASES[-1]:
            yield "done"
            return


def _await(endpoint: str) -> None:
    """Until somebody listens there."""
    host, _, port = endpoint.rpartition(":")
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except OSError:
            time.sleep(1)
