"""Starts the processes that train a phase together, on this machine and on others, by torch's elastic launcher.

When one dies, the launcher starts all of its round again, and they go on from the last state. Machines come and go: a
round begins with those that are there, and anew when another comes. They meet at a store, a small server on the head,
where `dvc repro` runs.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import psutil
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from xtts_finetune.core.errors import EXIT_BUG, Problem, Stopped, UserError
from xtts_finetune.core.layout import PhaseName
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.team import HEAD, ROUND, STORE, host_and_port

RESTARTS = 3  # after processes that died, before a phase gives up
RENDEZVOUS = "XTTS_FINETUNE_RENDEZVOUS"  # in place of launch.rendezvous, where a cluster's scheduler gives machines out
LATECOMERS = timedelta(seconds=30)  # how long a round waits for further machines
_BACKEND = "xtts-finetune"
_PATIENCE = timedelta(seconds=60)  # with a store that does not answer
_OUTCOME = "outcome"
_LAUNCHER = "XTTS_FINETUNE_LAUNCHER"  # host:port at which this machine's first process reports to its launcher
_WORKER = ["-m", "xtts_finetune.stages.worker"]


@dataclass(frozen=True)
class Outcome:
    """How the leader ended."""

    phase: PhaseName | None  # None: before it said what is to be done
    code: int  # its exit code


class _Rendezvous(DynamicRendezvousHandler):
    """Torch's own, which tells the processes it starts which round is theirs.

    Torch would have them meet at a store of the round's first machine, which may be any of them, and be gone in the
    next round (pytorch/pytorch issues 135712 and 182221). Ours meet at the head's, under the number of the round.
    """

    is_head = False

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return _BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        info = super().next_rendezvous()
        os.environ[ROUND] = str(self._state_holder.state.round)
        return info

    def shutdown(self) -> bool:
        """End this machine's part. The head alone closes the rendezvous: others may go before the work is done."""
        if self.is_head:
            return super().shutdown()
        self._stop_heartbeats()
        return True


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    host, port = host_and_port(parameters.endpoint)
    store = TCPStore(host, port, is_master=False, timeout=_PATIENCE)
    handler = _Rendezvous.from_backend(
        parameters.run_id,
        store,
        C10dRendezvousBackend(store, parameters.run_id),
        parameters.min_nodes,
        parameters.max_nodes,
        parameters.local_addr,
        RendezvousTimeout(last_call=LATECOMERS),
    )
    assert isinstance(handler, _Rendezvous)
    handler.is_head = bool(parameters.get_as_bool("is_head"))
    return handler


rendezvous_handler_registry.register(_BACKEND, _rendezvous)


def lead(launch: LaunchParams, phase: PhaseName) -> int:
    """Train a phase in the processes of this machine and of those that join it; returns the leader's exit code.

    Raises:
        UserError: launch asks for what is not here.
        Stopped: processes were killed again and again.
    """
    _refuse_lacking_gpus(launch)
    host, port = host_and_port(rendezvous_of(launch)) if launch.nodes > 1 else ("127.0.0.1", 0)
    store = _opened(host, port)
    with _on_stop(_ask_the_leader):
        return _run(f"{host}:{store.port}", launch, [phase], is_head=True).code


def serve(launch: LaunchParams) -> Outcome:
    """Work for the head, for one phase.

    Raises:
        UserError, Stopped: as `lead`.
        RendezvousError: the head is gone, or its phase at an end.
    """
    _refuse_lacking_gpus(launch)
    with _on_stop(_leave):
        return _run(rendezvous_of(launch), launch, [], is_head=False)


def report(outcome: Outcome) -> None:
    """Tell this machine's launcher how the leader ended; for its first process.

    It then ends with exit code 0, after which nothing is started again.
    """
    host, port = host_and_port(os.environ[_LAUNCHER])
    store = TCPStore(host, port, is_master=False, timeout=_PATIENCE)
    store.set(_OUTCOME, json.dumps([outcome.phase, outcome.code]))


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


def _run(endpoint: str, launch: LaunchParams, arguments: list[str], is_head: bool) -> Outcome:
    address, reports = _own_address(*host_and_port(endpoint)), _opened("127.0.0.1", 0)
    _set_environment(endpoint, address, launch.processes, is_head)
    os.environ[_LAUNCHER] = f"127.0.0.1:{reports.port}"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=launch.nodes,
        nproc_per_node=launch.processes,
        logs_specs=DefaultLogsSpecs(),
        run_id=_BACKEND,
        rdzv_backend=_BACKEND,
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_head": is_head},
        max_restarts=RESTARTS,
        local_addr=address,
        signals_to_handle="SIGABRT",  # none of those that a stage handles itself
    )
    try:
        elastic_launch(config, sys.executable)(*_WORKER, *arguments)
    except ChildFailedError as error:
        _explain(error)
    return Outcome(*json.loads(reports.get(_OUTCOME)))


def _explain(error: ChildFailedError) -> None:
    """What became of processes that died once too often: those that raised something have said it themselves."""
    rank, failure = error.get_first_failure()
    if failure.exitcode > 0:
        sys.exit(EXIT_BUG)
    times = f"{RESTARTS + 1} times, the last by {failure.signal_name()}"
    raise Stopped(
        f"process {rank} died {times}: perhaps the memory is full. What was saved is kept; dvc repro goes on there"
    ) from error


def _set_environment(endpoint: str, address: str, processes: int, is_head: bool) -> None:
    """For the processes to be started, which inherit it."""
    os.environ[STORE] = endpoint
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    interface = _interface_of(address)
    if interface:  # else gloo looks up the host's name, which may lead to another network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    os.environ.pop(HEAD, None)
    if is_head:
        os.environ[HEAD] = "1"


def _opened(host: str, port: int) -> TCPStore:
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


def _own_address(host: str, port: int) -> str:
    """This machine's, on the way to another."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        own: str = probe.getsockname()[0]
    return own


def _interface_of(address: str) -> str | None:
    names = psutil.net_if_addrs()
    return next((name for name, places in names.items() if any(place.address == address for place in places)), None)


def _refuse_lacking_gpus(launch: LaunchParams) -> None:
    count = torch.cuda.device_count()
    if 0 < count < launch.processes:
        what = f"is more than this machine has GPUs, {count}"
        where = f"params.yaml: launch.processes = {launch.processes}"
        raise UserError("cannot start", [Problem(where, what, f"write {count}")])


@contextmanager
def _on_stop(act: Callable[[list[psutil.Process]], None]) -> Iterator[None]:
    """Let signals that ask to stop do this with the processes that were started; without any, they just interrupt."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        started = [child for child in psutil.Process().children() if "LOCAL_RANK" in child.environ()]
        if not started:
            raise KeyboardInterrupt
        act(started)

    previous = {number: signal.signal(number, on_signal) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ask_the_leader(started: list[psutil.Process]) -> None:
    """It saves, and ends all; then the launcher ends, too."""
    if sys.platform != "win32":  # there Ctrl-C reaches every process of the console by itself
        for process in started:
            if process.environ()["LOCAL_RANK"] == "0":
                process.terminate()


def _leave(started: list[psutil.Process]) -> None:
    """The others go on without them."""
    for process in started:
        process.kill()
    raise KeyboardInterrupt
