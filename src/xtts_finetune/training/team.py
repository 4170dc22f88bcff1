"""The processes that train a phase together: one leads, the others follow.

Only the leader knows how far the run is, saves it and reports. It tells the others what to compute next; each computes
its share, and all get the same sum. A team of one has nobody to tell, and nothing to add up.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store, _set_pg_timeout

from xtts_finetune.core.layout import PhaseName
from xtts_finetune.core.meeting_place import host_and_port
from xtts_finetune.training.place import Place

# How a process finds its team; beside them torch's elastic launcher sets RANK, WORLD_SIZE and others.
STORE = "XTTS_FINETUNE_STORE"  # host:port of the store at which the processes meet
ROUND = "XTTS_FINETUNE_ROUND"  # how often they met there before
HEAD = "XTTS_FINETUNE_HEAD"  # set on the machine whose first process leads
# Without a word from the others, before they count as lost. A leader says nothing while a slow disk keeps it waiting.
SILENCE = timedelta(minutes=30)
MEETING = timedelta(minutes=5)  # until all of a round have reached each other, and torch has loaded on the slowest
ANOTHER_ROUND = 76  # exit code of a process that ends so that all can begin again, by no fault of its own


class Task(IntEnum):
    """What the leader asks of all."""

    END = 0
    BEGIN = 1
    STEP = 2
    EVALUATE = 3


@dataclass(frozen=True)
class Order:
    """A task, and of a step its place; of the end its exit code."""

    task: Task
    place: Place | None = None
    code: int = 0


class PeerLost(Exception):
    """Another process of the team died, or cannot be reached."""


class Team:
    """A process among those that train together.

    Attributes:
        rank: of this one, from 0; which share of every batch is its own.
        size: how many there are.
        is_leader: whether this one leads.
    """

    def __init__(self, rank: int, size: int, leader: int, store: Store | None) -> None:
        self.rank = rank
        self.size = size
        self.is_leader = rank == leader
        self._leader = leader
        self._store = store
        self._is_led = False  # whether the others follow orders
        self._is_waited_for = False  # in the middle of one
        self._has_ended = False

    @classmethod
    def alone(cls) -> Self:
        return cls(0, 1, 0, None)

    @classmethod
    def join(cls) -> Self:
        """Meet the others, as the environment says.

        Raises:
            PeerLost: not all came.
        """
        host, port = host_and_port(os.environ[STORE])
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        with _others_needed():
            server = TCPStore(host, port, is_master=False, timeout=MEETING)
            store = PrefixStore(f"round-{os.environ[ROUND]}", server)
            if leads():
                store.set("leader", str(rank))
            leader = int(store.get("leader"))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=MEETING)
            _set_pg_timeout(SILENCE)
            store.set_timeout(SILENCE)  # it took over that of the meeting
        return cls(rank, size, leader, store)

    @property
    def is_launched(self) -> bool:
        """Whether a launcher started this process, and others may come."""
        return self._store is not None

    @property
    def in_words(self) -> str:
        """For behind the device's name; nothing of a team of one."""
        return f", in {self.size} processes" if self.size > 1 else ""

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each by the sum over all processes, the same bytes on all.

        Raises:
            PeerLost: not all have theirs to add.
        """
        if self.size > 1:
            with _others_needed():
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Replace each by the leader's; raises as `add_up`."""
        if self.size > 1:
            with _others_needed():
                for tensor in tensors:
                    dist.broadcast(tensor, self._leader)

    # What the leader says.

    def begin(self, work: dict[str, Any]) -> None:
        """Tell the others what the work is, and have them begin.

        Raises:
            PeerLost: one of them does not come.
        """
        assert self._store, "a team of one has nobody to tell"
        self._store.set("work", json.dumps(work))
        self._is_led = True
        self.order(Order(Task.BEGIN))

    def order(self, order: Order) -> None:
        """Have the others do it, too; raises as `add_up`."""
        if self.size > 1:
            with _others_needed():
                dist.broadcast(_as_tensor(order), self._leader)

    @contextmanager
    def ordered(self, order: Order) -> Iterator[None]:
        """Have the others do what this process does in the block; raises as `add_up`.

        Where the block raises, they wait for its part of a sum: `end` can tell them nothing, and they learn from the
        connections that this process closes when it ends.
        """
        self._is_waited_for = True
        self.order(order)
        yield
        self._is_waited_for = False

    def end(self, name: PhaseName, code: int) -> None:
        """Let the others go, as far as they still are there; the phase `name` ended so. Once is enough."""
        if self.size == 1 or self._has_ended or self._is_waited_for:
            return
        self._has_ended = True
        try:
            if self._is_led:
                self.order(Order(Task.END, code=code))
            elif self._store:
                self._store.set("work", json.dumps({"name": name, "code": code}))
        except PeerLost:
            pass  # gone already

    # What the others hear.

    def hear_work(self) -> dict[str, Any]:
        """What the leader told; {"name": …, "code": …} where it ended without.

        Raises:
            PeerLost: the leader says nothing.
        """
        assert self._store
        with _others_needed():
            content: dict[str, Any] = json.loads(self._store.get("work"))
        return content

    def orders(self) -> Iterator[Order]:
        """Every order up to the end, which comes, too; raises as `hear_work`."""
        while True:
            tensor = _as_tensor(Order(Task.END))
            with _others_needed():
                dist.broadcast(tensor, self._leader)
            task, epoch, epoch_step, step, code = tensor.tolist()
            yield Order(Task(task), Place(epoch, epoch_step, step), code)
            if task == Task.END:
                return


def described(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What another process needs to make room for them, as JSON."""
    return {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.device.type]
        for name, tensor in tensors.items()
    }


def made_room_for(description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of zeros, as `described`."""
    return {
        name: torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        for name, (dtype, shape, device) in description.items()
    }


def leads() -> bool:
    """Whether this process is the one that leads, by its environment."""
    return HEAD in os.environ and os.environ.get("LOCAL_RANK") == "0"


def _as_tensor(order: Order) -> Tensor:
    place = order.place or Place(0, 0, 0)
    return torch.tensor([order.task, place.epoch, place.epoch_step, place.step, order.code])


@contextmanager
def _others_needed() -> Iterator[None]:
    """What torch raises where the others do not take part."""
    try:
        yield
    except (torch.AcceleratorError, torch.OutOfMemoryError):  # of this process's own work, which only now is heard of
        raise
    except RuntimeError as error:  # also torch.distributed's own, which are of this class
        raise PeerLost(_reason(error)) from error


def _reason(error: RuntimeError) -> str:
    """Gloo's in its first line; NCCL's further below, where it says what it lacks."""
    text = str(error)
    return text if isinstance(error, dist.DistBackendError) else text.partition("\n")[0]
