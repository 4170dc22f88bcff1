"""Starts the processes that train a phase together, on this machine and on others, by torch's elastic launcher.

When one dies, the launcher starts all of its round again, and they go on from the last state. Machines come and go: a
round begins with those that are there, and anew when another comes. They meet at a store, a small server on the head,
where `dvc repro` runs.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Self

import psutil
import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from xtts_finetune.checkpoints.identity import origin_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.errors import Problem, Stopped, UserError
from xtts_finetune.core.files import read_json, sha256_file
from xtts_finetune.core.layout import FEATURES, PhaseName, Workspace
from xtts_finetune.core.meeting_place import host_and_port, listening, rendezvous_of
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.training.interrupts import stop_signals
from xtts_finetune.training.meeting import (
    BACKEND,
    LATECOMERS,
    Ground,
    ground_of,
    interface_of,
    open_meeting,
    open_store,
    own_address,
    reached_store,
)
from xtts_finetune.training.team import HEAD, STORE

RESTARTS = 3  # in a row, of processes that died before they saved anything new; then a phase gives up
_OUTCOME = "outcome"
_LAUNCHER = "XTTS_FINETUNE_LAUNCHER"  # host:port at which this machine's first process reports to its launcher
_WORKER = ["-m", "xtts_finetune.stages.worker"]


@dataclass(frozen=True)
class Outcome:
    """How the leader ended."""

    phase: PhaseName
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


class _Head:
    """Rounds as the head wants them: none after a stop, and none in vain."""

    def __init__(self, stop: _Stop, states: CheckpointReader) -> None:
        self._stop = stop
        self._states = states
        self._newest = -1
        self._in_vain = -1  # rounds, since the newest state was saved
        self._is_change = False

    def before_round(self) -> None:
        """Count the round.

        Raises:
            KeyboardInterrupt: the leader was asked to stop, and died of it.
            Stopped: nothing new was saved in the rounds before this one.
        """
        if self._stop.is_asked:
            raise KeyboardInterrupt
        newest = max((state.step for state in self._states.states()), default=-1)
        if newest > self._newest:
            self._newest, self._in_vain = newest, 0
        elif not self._is_change:
            self._in_vain += 1
        if self._in_vain > RESTARTS:
            what = "processes ended too early again and again (why, they said above), with no new state between"
            raise Stopped(f"{what}. What was saved is kept; dvc repro goes on there")
        if self._in_vain > 0 and not self._is_change:
            print(f"processes ended too early: all begin again ({self._in_vain} of {RESTARTS} in vain)", flush=True)
        self._is_change = False

    def before_change(self) -> None:
        """Let the leader save first, however long it takes: torch would kill it after half a minute."""
        if not self._is_change:
            print("another machine has come: the leader saves, and all go on together", flush=True)
        self._is_change = True
        leader = _started().get("0")
        if leader:
            leader.terminate()
            with suppress(psutil.NoSuchProcess):
                while leader.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.1)


def lead(workspace: Workspace, launch: LaunchParams, phase: PhaseName) -> int:
    """Train a phase in the processes of this machine and of those that join it; returns the leader's exit code.

    Raises:
        UserError: launch asks for what is not here.
        Stopped: processes died again and again.
    """
    refuse_what_is_lacking(launch)
    if launch.nodes > 1:
        endpoint = rendezvous_of(launch)
        store = open_meeting(endpoint, Ground(launch.nodes, _origin(workspace)))
        seconds = LATECOMERS.total_seconds()
        print(f"waiting {seconds:.0f} s for other machines: they type xtts-finetune join", flush=True)
    else:
        store = open_store(listening("127.0.0.1:0"))
        endpoint = f"127.0.0.1:{store.port}"
    with _Stop(_ask_the_leader) as stop:
        head = _Head(stop, CheckpointReader(workspace.work(phase)))
        while True:
            try:
                return _run(endpoint, launch, [phase], head).code
            except (RendezvousError, DistError) as error:  # a machine left while a round was formed: another round
                print(f"machines did not come together: {error}", file=sys.stderr)


def serve(workspace: Workspace, launch: LaunchParams) -> Outcome:
    """Work for the head, for one phase.

    Raises:
        UserError: this machine does not fit the head.
        RendezvousError, DistError: the head is gone, or its phase at an end.
    """
    endpoint = rendezvous_of(launch)
    ground = ground_of(endpoint)
    origin = _origin(workspace)
    _refuse_damaged_features(workspace)
    apart = [name for name, value in ground.origin.items() if origin.get(name) != value]
    if apart:
        remedy = "let all machines have the same checkout, environment, prepared/ and kind of device; then join again"
        differs = Problem(str(workspace.root), f"{', '.join(apart)}: not as at {endpoint}", remedy)
        raise UserError("this machine cannot take part", [differs])
    with _Stop(_leave):
        return _run(endpoint, launch.model_copy(update={"nodes": ground.nodes}), [], None)


def _refuse_damaged_features(workspace: Workspace) -> None:
    """A copy of prepared/ must be what its own list says: nothing else would notice."""
    place, file = workspace.prepared, workspace.prepared / FEATURES
    listed = read_json(file) if file.is_file() else {}

    def is_whole(name: str) -> bool:
        return (place / name).is_file() and sha256_file(place / name) == listed[name]

    differ = [name for name in listed if not is_whole(name)]
    if differ or not listed:
        what = f"{', '.join(differ)}: not as {FEATURES} says" if differ else f"{FEATURES} is not there"
        remedy = "copy prepared/ from where dvc repro runs"
        raise UserError("this machine cannot take part", [Problem(str(place), what, remedy)])


def _origin(workspace: Workspace) -> dict[str, str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {**origin_of(workspace), "the version of PyTorch": torch.__version__, "the kind of device": device}


def report(outcome: Outcome) -> None:
    """Tell this machine's launcher how the leader ended; for its first process.

    It then ends with exit code 0, after which nothing is started again.
    """
    store = reached_store(os.environ[_LAUNCHER])
    store.set(_OUTCOME, json.dumps([outcome.phase, outcome.code]))


def _run(endpoint: str, launch: LaunchParams, arguments: list[str], head: _Head | None) -> Outcome:
    """`head`: on the head alone."""
    address, reports = own_address(*host_and_port(endpoint)), open_store(listening("127.0.0.1:0"))
    _set_environment(endpoint, address, launch.processes, head is not None)
    os.environ[_LAUNCHER] = f"127.0.0.1:{reports.port}"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=launch.nodes,
        nproc_per_node=launch.processes,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        run_id=BACKEND,
        rdzv_backend=BACKEND,
        rdzv_endpoint=endpoint,
        rdzv_configs={"head": head},
        max_restarts=1_000_000,  # the head says when it is enough
        local_addr=address,
        signals_to_handle="SIGABRT",  # none of those that a stage handles itself
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    elastic_launch(config, sys.executable)(*_WORKER, *arguments)
    return Outcome(*json.loads(reports.get(_OUTCOME)))


def _set_environment(endpoint: str, address: str, processes: int, is_head: bool) -> None:
    """For the processes to be started, which inherit it."""
    os.environ[STORE] = endpoint
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    interface = interface_of(address)
    if interface:  # else gloo looks up the host's name, which may lead to another network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    os.environ.pop(HEAD, None)
    if is_head:
        os.environ[HEAD] = "1"


def _cores() -> int:
    """How many this process may use: a scheduler may have given it a part of the machine."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def refuse_what_is_lacking(launch: LaunchParams) -> None:
    """Raise UserError where this machine cannot run so many processes."""
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
    print("stopping, when all is saved; once more ends it at once", file=sys.stderr, flush=True)
    if "0" in started:
        started["0"].terminate()


def _leave(started: dict[str, psutil.Process]) -> None:
    """The others go on without them."""
    for process in started.values():
        process.kill()
    raise KeyboardInterrupt
