"""Where the processes of several launchers meet: a store, a small server on the head.

Torch's elastic launcher forms the rounds there: which machines take part, and which rank each process has.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
    _RendezvousExitOp,
)

from xtts_finetune.core.meeting_place import host_and_port, listening_to_others
from xtts_finetune.training.team import ROUND

BACKEND = "xtts-finetune"  # its name in torch's launcher
LATECOMERS = timedelta(seconds=30)  # how long a round waits for further machines
PATIENCE = timedelta(seconds=60)  # with a store that does not answer
_GROUND = "ground"


@dataclass(frozen=True)
class Ground:
    """What all machines of a training must have in common."""

    nodes: int  # how many there may be
    origin: dict[str, str]  # digests and versions by name


def open_store(listening_at: socket.socket) -> TCPStore:
    """A store behind this socket alone: what lies in it is as trusted as code."""
    host, port = listening_at.getsockname()[:2]
    return TCPStore(host, port, is_master=True, master_listen_fd=listening_at.detach(), wait_for_workers=False)


def open_meeting(endpoint: str, ground: Ground) -> TCPStore:
    """The store at which other machines meet this one, and find what they must have alike; raises UserError."""
    store = open_store(listening_to_others(endpoint))
    store.set(_GROUND, json.dumps([ground.nodes, ground.origin]))
    return store


def reached_store(endpoint: str) -> TCPStore:
    """The store that another process opened there; raises DistError where none answers within PATIENCE."""
    host, port = host_and_port(endpoint)
    return TCPStore(host, port, is_master=False, timeout=PATIENCE)


def ground_of(endpoint: str) -> Ground:
    """What the head at this address says of its training; raises DistError where there is none."""
    return Ground(*json.loads(reached_store(endpoint).get(_GROUND)))


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

    head: "Head | None" = None  # on the head alone

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        if self.head:
            self.head.before_round()
        info = super().next_rendezvous()
        os.environ[ROUND] = str(self._state_holder.state.round)
        return info

    def num_nodes_waiting(self) -> int:
        """How many machines want to take part; where there are any, all processes are ended, and a round begins."""
        waiting = super().num_nodes_waiting()
        if waiting and self.head:
            self.head.before_change()
        return waiting

    def shutdown(self) -> bool:
        """Leave, so that no round counts on this machine. The others may go on: nobody closes it for them."""
        self._stop_heartbeats()
        with suppress(RendezvousError):  # the head is gone
            self._op_executor.run(_RendezvousExitOp(), self._get_deadline(self._settings.timeout.close))
        return True


class Head(Protocol):
    """What the head does about rounds."""

    def before_round(self) -> None:
        """May refuse it by raising."""

    def before_change(self) -> None:
        """Processes that work are about to be ended, as another machine came."""


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    store = reached_store(parameters.endpoint)
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
    handler.head = parameters.config["head"]
    return handler


rendezvous_handler_registry.register(BACKEND, _rendezvous)
