"""Where the processes of several launchers meet: a store, a small server on the head.

Torch's elastic launcher forms the rounds there: which machines take part, and which rank each process has.
"""

import json
import os
import pickle
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Protocol, Self

import psutil
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousError, RendezvousInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
    _RendezvousExitOp,
)

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.meeting_place import host_and_port, listening_to_others
from xtts_finetune.training.team import ROUND, SILENCE

BACKEND = "xtts-finetune"  # its name in torch's launcher
LATECOMERS = timedelta(seconds=30)  # how long a round waits for further machines
PATIENCE = timedelta(seconds=20)  # with a store that does not answer
CLOCKS_APART = timedelta(seconds=10)  # heartbeats come every 5 s, and none for 15 s is a death
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


class Machine(Protocol):
    """What a machine does about rounds."""

    def before_round(self, store: Store) -> None:
        """May refuse it by raising."""

    def after_round_formed(self, store: Store) -> None:
        """Its machines are known."""

    def ends_round(self, come: int, gone: int) -> bool:
        """Whether so many machines that wait, or have left, are to end it; may take as long as that needs."""


class Rendezvous(DynamicRendezvousHandler):
    """Torch's own, which tells the processes it starts which round is theirs.

    Torch would have them meet at a store of the round's first machine, which may be any of them, and be gone in the
    next round (pytorch/pytorch issues 135712 and 182221). Ours meet at the head's, under the number of the round.
    """

    machine: Machine
    endpoint: str

    @classmethod
    def at(cls, endpoint: str, nodes: int, address: str, machine: Machine, is_head: bool) -> Self:
        """The rounds of at most so many machines, of which this one has the `address`.

        Raises:
            DistError, RendezvousError: nobody is there.
            UserError: its clock is another one's.
        """
        store, backend = reached_store(endpoint), _Backend(endpoint)
        if not is_head:
            backend.refuse_another_clock()
        timeout = RendezvousTimeout(last_call=LATECOMERS)
        handler = cls.from_backend(BACKEND, store, backend, 1, nodes, address, timeout)
        assert isinstance(handler, cls)
        handler.machine, handler.endpoint = machine, endpoint
        return handler

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        self._store = reached_store(self.endpoint)  # the one of the round before may have lost its connection
        self.machine.before_round(self._store)
        info = super().next_rendezvous()
        self._formed = len(self._state_holder.state.participants)
        self.machine.after_round_formed(self._store)
        os.environ[ROUND] = str(self._state_holder.state.round)
        return info

    def num_nodes_waiting(self) -> int:
        """Asked while a round trains: above 0, torch ends it, and another one begins."""
        come = super().num_nodes_waiting()
        gone = self._formed - len(self._state_holder.state.participants)
        return int(self.machine.ends_round(come, gone))

    def shutdown(self) -> bool:
        """Leave, so that no round counts on this machine. The others may go on: nobody closes it for them."""
        self._stop_heartbeats()
        with suppress(RendezvousError):  # the head is gone
            self._op_executor.run(_RendezvousExitOp(), self._get_deadline(self._settings.timeout.close))
        return True


class _Backend(C10dRendezvousBackend):
    """Torch's own, which survives that a machine is cut off for some time."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        super().__init__(reached_store(endpoint), BACKEND)

    def refuse_another_clock(self) -> None:
        """Raise UserError where this machine would take living ones for dead: torch compares times with its own."""
        state = self.get_state()
        beats = pickle.loads(state[0]).last_heartbeats.values() if state else ()  # torch reads it in the same way
        apart = abs((datetime.now(UTC) - max(beats)).total_seconds()) if beats else 0.0
        if apart > CLOCKS_APART.total_seconds():
            what = f"its last sign of life is {apart:.0f} s from this machine's time: one of their clocks is wrong"
            raise UserError("this machine cannot take part", [Problem(self._endpoint, what, "set both by NTP")])

    def _call_store(self, store_op: str, *args: Any, **kwargs: Any) -> Any:
        """Over a new connection, if the old one is silent or broken: its answers might come late, for another call.

        Raises:
            RendezvousConnectionError: the head is gone, or silent for too long.
        """
        patience = monotonic() + SILENCE.total_seconds()
        while True:
            try:
                return super()._call_store(store_op, *args, **kwargs)
            except RendezvousConnectionError:
                if monotonic() > patience or not _is_there(self._endpoint):
                    raise
            with suppress(DistError):
                self._store = reached_store(self._endpoint)


def _is_there(endpoint: str) -> bool:
    """False where the machine says that nobody listens; that it cannot be reached says nothing."""
    try:
        socket.create_connection(host_and_port(endpoint), PATIENCE.total_seconds()).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        time.sleep(1)
    return True
