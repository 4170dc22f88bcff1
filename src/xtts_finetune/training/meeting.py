"""Where the processes of several launchers meet: a store, a small server on the head.

Torch's elastic launcher forms the rounds there: which machines take part, and which rank each process has.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol, Self, TypeVar

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

T = TypeVar("T")
BACKEND = "xtts-finetune"  # its name in torch's launcher
LATECOMERS = timedelta(seconds=30)  # how long a round waits for further machines
PATIENCE = timedelta(seconds=20)  # with a store that does not answer
LEAVING = timedelta(seconds=10)  # that machines have for it, at the end of a phase
CLOCKS_APART = timedelta(seconds=5)  # torch takes a machine for dead that gave no sign for 15 s, by its own clock
_GROUND = "ground"
_CLOCK = "clock"  # the head's, in seconds since the epoch, told every second
_OVER = "over"  # the newest round that has ended


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
    threading.Thread(target=_tell_the_time, args=[endpoint], daemon=True).start()
    return store


def _tell_the_time(endpoint: str) -> None:
    with suppress(DistError):  # the head ends, or is cut off from itself
        store = reached_store(endpoint)
        while True:
            store.set(_CLOCK, str(time.time()))
            time.sleep(1)


def reached_store(endpoint: str) -> TCPStore:
    """The store that another process opened there.

    Raises:
        DistError: none answers within PATIENCE; Silent, of this class: who listens there says nothing.
    """
    host, port = host_and_port(endpoint)
    return _in_time(lambda: TCPStore(host, port, is_master=False, timeout=PATIENCE), endpoint)


def ground_of(endpoint: str) -> Ground:
    """What the head at this address says of its training; raises as `reached_store`."""
    store = reached_store(endpoint)
    return Ground(*json.loads(_in_time(lambda: store.get(_GROUND), endpoint)))


class Silent(DistError):
    """Somebody listens, and says nothing: no head, or one that stands still."""


def _in_time(work: Callable[[], T], endpoint: str) -> T:
    """What `work` returns or raises. Torch waits for a silent server without end, and hears no signal meanwhile."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - to be raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(2 * PATIENCE.total_seconds())
    except TimeoutError:
        raise Silent(f"{endpoint} is silent") from None


def refuse_another_clock(endpoint: str) -> None:
    """Raise UserError where this machine's clock is not that of the head: it would take living machines for dead.

    Raises:
        DistError: there is no head, or it tells no time.
    """
    store, deadline = reached_store(endpoint), monotonic() + PATIENCE.total_seconds()
    seen = told = store.get(_CLOCK)
    while told == seen:  # until it is just told
        if monotonic() > deadline:
            raise DistError(f"{endpoint} tells no time")
        time.sleep(0.05)
        told = store.get(_CLOCK)
    apart = abs(_now() - float(told))
    if apart > CLOCKS_APART.total_seconds():
        clocks = Problem(endpoint, f"its clock and this machine's are {apart:.0f} s apart", "set both by NTP")
        raise UserError("this machine cannot take part", [clocks])


def _now() -> float:
    """Seconds since the epoch, by this machine's clock."""
    return time.time()


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

    def before_start(self, store: Store) -> None:
        """Its processes are about to be started."""

    def after_failure(self, codes: list[int], machines: int) -> None:
        """Its processes ended early, in a round of so many machines."""

    def ends_round(self, come: int, gone: int, is_over: bool) -> bool:
        """Whether to end it: so many machines wait, or have left; the head says it is over. May take its time."""


class Rendezvous(DynamicRendezvousHandler):
    """Torch's own, which tells the processes it starts which round is theirs.

    Torch would have them meet at a store of the round's first machine, which may be any of them, and be gone in the
    next round (pytorch/pytorch issues 135712 and 182221). Ours meet at the head's, under the number of the round.
    """

    machine: Machine
    backend: "_Backend"
    is_head: bool
    formed: tuple[int, int]  # the round that trains, and of how many machines

    @classmethod
    def at(cls, endpoint: str, nodes: int, address: str, machine: Machine, is_head: bool) -> Self:
        """The rounds of at most so many machines, of which this one has the `address`.

        Raises:
            DistError, RendezvousError: nobody is there.
        """
        store, backend = reached_store(endpoint), _Backend(endpoint)
        timeout = RendezvousTimeout(last_call=LATECOMERS)
        handler = cls.from_backend(BACKEND, store, backend, 1, nodes, address, timeout)
        assert isinstance(handler, cls)
        handler.machine, handler.backend, handler.is_head = machine, backend, is_head
        return handler

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        self._store = reached_store(self.backend.endpoint)  # that of the round before may have lost its connection
        self.machine.before_round(self._store)
        if self.is_head:  # torch lets none begin until all have left the one before
            self._store.set(_OVER, os.environ.get(ROUND, "-1"))
        info = super().next_rendezvous()
        self.formed = self._state_holder.state.round, len(self._state_holder.state.participants)
        os.environ[ROUND] = str(self.formed[0])
        return info

    def before_start(self) -> None:
        self.machine.before_start(self._store)

    def num_nodes_waiting(self) -> int:
        """Asked while a round trains: above 0, torch ends it, and another one begins."""
        come = super().num_nodes_waiting()
        number, machines = self.formed
        gone = machines - len(self._state_holder.state.participants)
        return int(self.machine.ends_round(come, gone, is_over=int(self.backend.get(_OVER)) >= number))

    def let_others_leave(self) -> None:
        """On the head, whose store goes with it: machines may still have to hear how the phase ended."""
        deadline = monotonic() + LEAVING.total_seconds()
        while self.is_head and len(self._state_holder.state.participants) > 1 and monotonic() < deadline:
            time.sleep(0.1)
            super().num_nodes_waiting()  # reads who is there

    def shutdown(self) -> bool:
        """Leave, so that no round counts on this machine. The others may go on: nobody closes it for them."""
        self.backend.is_patient = False
        self._stop_heartbeats()
        with suppress(RendezvousError):  # the head is gone
            self._op_executor.run(_RendezvousExitOp(), self._get_deadline(self._settings.timeout.close))
        return True


class _Backend(C10dRendezvousBackend):
    """Torch's own, which survives that a machine is cut off for some time."""

    is_patient = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(reached_store(endpoint), BACKEND)

    def get(self, key: str) -> str:
        content: bytes = self._call_store("get", key)
        return content.decode()

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
                if not self.is_patient or monotonic() > patience or not _is_there(self.endpoint):
                    raise
            with suppress(DistError):
                self._store = reached_store(self.endpoint)


def _is_there(endpoint: str) -> bool:
    """False where the machine says that nobody listens; that it cannot be reached says nothing."""
    try:
        socket.create_connection(host_and_port(endpoint), PATIENCE.total_seconds()).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        time.sleep(1)
    return True
