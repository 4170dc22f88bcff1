"""Starts the processes that train a phase together, on this machine and on others, by torch's elastic launcher.

When one dies, the launcher starts all of its round again, and they go on from the last state. Machines come and go: a
round begins with those that are there, and anew when another comes. They meet at a store, a small server on the head,
where `dvc repro` runs.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Self

import psutil
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from xtts_finetune.core.errors import EXIT_BUG, Problem, Stopped, UserError
from xtts_finetune.core.layout import PhaseName
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.meeting import BACKEND, PATIENCE, interface_of, opened, own_address, rendezvous_of
from xtts_finetune.training.team import HEAD, STORE, host_and_port

RESTARTS = 3  # after processes that died, before a phase gives up
_OUTCOME = "outcome"
_LAUNCHER = "XTTS_FINETUNE_LAUNCHER"  # host:port at which this machine's first process reports to its launcher
_WORKER = ["-m", "xtts_finetune.stages.worker"]


@dataclass(frozen=True)
class Outcome:
    """How the leader ended."""

    phase: PhaseName | None  # None: before it said what is to be done
    code: int  # its exit code


class _Stop:
    """Signals that ask to stop, while processes are at work: the first is a request, the second ends all at once."""

    def __init__(self, act: Callable[[dict[str, psutil.Process]], None]) -> None:
        """`act`: what the first does with the processes that were started, by their local rank."""
        self._act = act
        self.is_asked = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        started = _started()
        if started and not self.is_asked:
            self.is_asked = True
            self._act(started)
            return
        _leave(started)


def lead(launch: LaunchParams, phase: PhaseName) -> int:
    """Train a phase in the processes of this machine and of those that join it; returns the leader's exit code.

    Raises:
        UserError: launch asks for what is not here.
        Stopped: processes were killed again and again.
    """
    _refuse_what_is_lacking(launch)
    host, port = host_and_port(rendezvous_of(launch)) if launch.nodes > 1 else ("127.0.0.1", 0)
    store = opened(host, port)
    with _Stop(_ask_the_leader) as stop:
        return _run(f"{host}:{store.port}", launch, [phase], stop).code


def serve(launch: LaunchParams) -> Outcome:
    """Work for the head, for one phase.

    Raises:
        UserError, Stopped: as `lead`.
        RendezvousError: the head is gone, or its phase at an end.
    """
    _refuse_what_is_lacking(launch)
    with _Stop(_leave):
        return _run(rendezvous_of(launch), launch, [], None)


def report(outcome: Outcome) -> None:
    """Tell this machine's launcher how the leader ended; for its first process.

    It then ends with exit code 0, after which nothing is started again.
    """
    host, port = host_and_port(os.environ[_LAUNCHER])
    store = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    store.set(_OUTCOME, json.dumps([outcome.phase, outcome.code]))


def _run(endpoint: str, launch: LaunchParams, arguments: list[str], head: _Stop | None) -> Outcome:
    """`head`: on the head alone."""
    address, reports = own_address(*host_and_port(endpoint)), opened("127.0.0.1", 0)
    _set_environment(endpoint, address, launch.processes, head is not None)
    os.environ[_LAUNCHER] = f"127.0.0.1:{reports.port}"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=launch.nodes,
        nproc_per_node=launch.processes,
        logs_specs=DefaultLogsSpecs(),
        run_id=BACKEND,
        rdzv_backend=BACKEND,
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_over": None if head is None else lambda: head.is_asked},
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
    killed = [(rank, failure) for rank, failure in error.failures.items() if failure.exitcode < 0]
    if not killed:
        sys.exit(EXIT_BUG)
    rank, failure = killed[0]
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
    interface = interface_of(address)
    if interface:  # else gloo looks up the host's name, which may lead to another network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    os.environ.pop(HEAD, None)
    if is_head:
        os.environ[HEAD] = "1"


def _refuse_what_is_lacking(launch: LaunchParams) -> None:
    where, count = f"params.yaml: launch.processes = {launch.processes}", torch.cuda.device_count()
    if sys.platform == "win32":
        remedy = "write processes: 1 and nodes: 1, or train under WSL"
        raise UserError("cannot start", [Problem(where, "several processes cannot train on Windows", remedy)])
    if 0 < count < launch.processes:
        raise UserError(
            "cannot start", [Problem(where, f"is more than this machine has GPUs, {count}", f"write {count}")]
        )


def _started() -> dict[str, psutil.Process]:
    """The processes that are at work, by their local rank."""
    found = {}
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ends just now
            found[child.environ().get("LOCAL_RANK", "")] = child
    return {rank: child for rank, child in found.items() if rank}


def _ask_the_leader(started: dict[str, psutil.Process]) -> None:
    """It saves, and ends all; then the launcher ends, too."""
    if "0" in started:
        started["0"].terminate()


def _leave(started: dict[str, psutil.Process]) -> None:
    """The others go on without them."""
    for process in started.values():
        process.kill()
    raise KeyboardInterrupt
