"""Where the processes of several launchers meet: a store, a small server on the head.

Torch's elastic launcher forms the rounds there: which machines take part, and which rank each process has.
"""

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.training.team import ROUND, host_and_port

BACKEND = "xtts-finetune"  # its name in torch's launcher
RENDEZVOUS = "XTTS_FINETUNE_RENDEZVOUS"  # in place of launch.rendezvous, where a cluster's scheduler gives machines out
LATECOMERS = timedelta(seconds=30)  # how long a round waits for further machines
PATIENCE = timedelta(seconds=60)  # with a store that does not answer


def rendezvous_of(launch: LaunchParams) -> str:
    """host:port at which machines meet.

    Raises:
        UserError: neither params.yaml nor the environment says.
    """
    endpoint = launch.rendezvous or os.environ.get(RENDEZVOUS)
    if endpoint:
        return endpoint
    what = f"is null, and there is no {RENDEZVOUS} in the environment"
    remedy = "give the first machine's address, as the others reach it, and a free port, as gpu-1:29400"
    raise UserError("machines cannot meet", [Problem("params.yaml: launch.rendezvous", what, remedy)])


def opened(host: str, port: int) -> TCPStore:
    """The store, listening at this address alone: what lies in it is as trusted as code.

    Raises:
        UserError: it cannot listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        remedy = "give an address of this machine, as the others reach it, and a port that is free"
        problem = Problem(f"launch.rendezvous = {host}:{port}", f"cannot be listened at: {error.strerror}", remedy)
        raise UserError("machines cannot meet", [problem]) from None
    port = listening.getsockname()[1]
    return TCPStore(host, port, is_master=True, master_listen_fd=listening.detach(), wait_for_workers=False)


def own_address(host: str, port: int) -> str:
    """This machine's, on the way to another."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        own: str = probe.getsockname()[0]
    return own


def interface_of(address: str) -> str | None:
    names = psutil.net_if_addrs()
    return next((name for name, places in names.items() if any(place.address == address for place in places)), None)


class Rendezvous(DynamicRendezvousHandler):
    """Torch's own, which tells the processes it starts which round is theirs.

    Torch would have them meet at a store of the round's first machine, which may be any of them, and be gone in the
    next round (pytorch/pytorch issues 135712 and 182221). Ours meet at the head's, under the number of the round.
    """

    is_over: Callable[[], bool] | None = None  # whether no further round is wanted; on the head alone

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        if self.is_over and self.is_over():
            raise KeyboardInterrupt
        info = super().next_rendezvous()
        os.environ[ROUND] = str(self._state_holder.state.round)
        return info

    def shutdown(self) -> bool:
        """End this machine's part. The head alone closes the rendezvous: others may go before the work is done."""
        if self.is_over:
            return super().shutdown()
        self._stop_heartbeats()
        return True


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    host, port = host_and_port(parameters.endpoint)
    store = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    handler = Rendezvous.from_backend(
        parameters.run_id,
        store,
        C10dRendezvousBackend(store, parameters.run_id),
        parameters.min_nodes,
        parameters.max_nodes,
        parameters.local_addr,
        RendezvousTimeout(last_call=LATECOMERS),
    )
    assert isinstance(handler, Rendezvous)
    handler.is_over = parameters.config["is_over"]
    return handler


rendezvous_handler_registry.register(BACKEND, _rendezvous)
