"""Starts the processes that train a phase together, on this machine and on others, by torch's elastic launcher.

When one dies, the launcher starts all of its round again, and they go on from the last state. Machines come and go: a
round begins with those that are there, and anew when another comes. They meet at a store, a small server on the head,
where `dvc repro` runs.
"""

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousError

from xtts_finetune.checkpoints.identity import origin_of
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, sha256_file, sha256_json
from xtts_finetune.core.layout import FEATURES, PhaseName, Workspace
from xtts_finetune.core.meeting_place import host_and_port, listening, rendezvous_of
from xtts_finetune.core.params import LaunchParams, Params
from xtts_finetune.core.processes import cores
from xtts_finetune.training.meeting import (
    LATECOMERS,
    Ground,
    Rendezvous,
    ground_of,
    interface_of,
    open_meeting,
    open_store,
    own_address,
    refuse_another_clock,
)
from xtts_finetune.training.messages import Messages, Outcome
from xtts_finetune.training.rounds import Ended, Head, Machine, Member, stopped_by_signals
from xtts_finetune.training.team import ANOTHER_ROUND, HEAD, STORE

_PACKAGE = Path(__file__).parents[1]
_COMPUTING = ("torch", "coqui-tts", "transformers", "peft", "bitsandbytes")
# What machines talk with, beside the code that shapes the weights.
_TALKING = (
    "core/phase_params.py",
    "stages/train.py",
    "stages/worker.py",
    "training/launch.py",
    "training/meeting.py",
    "training/messages.py",
    "training/rounds.py",
    "training/saving.py",
)
_WORKER = ("-m", "xtts_finetune.stages.worker")


def lead(workspace: Workspace, params: Params, phase: PhaseName) -> int:
    """Train a phase in the processes of this machine and of those that join it; returns the leader's exit code.

    Raises:
        UserError: launch asks for what is not here.
        Stopped: processes died again and again.
    """
    launch = params.launch
    refuse_what_is_lacking(launch)
    if launch.nodes > 1:
        endpoint = rendezvous_of(launch)
        store = open_meeting(endpoint, Ground(launch.nodes, _origin(workspace)))
        seconds = LATECOMERS.total_seconds()
        print(f"waiting {seconds:.0f} s for other machines: they type xtts-finetune join", flush=True)
    else:
        store = open_store(listening("127.0.0.1:0"))
        endpoint = f"127.0.0.1:{store.port}"
    messages = Messages.open()
    messages.work = phase, params
    head = Head(messages, CheckpointReader(workspace.work(phase)))
    with stopped_by_signals(head, messages):
        while True:
            try:
                return _run(endpoint, launch, messages, head).code
            except (RendezvousError, DistError) as error:  # a machine left while a round was formed: another round
                print(f"machines did not come together: {str(error) or type(error).__name__}", file=sys.stderr)


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
    refuse_another_clock(endpoint)
    messages = Messages.open()
    with stopped_by_signals(None, messages):
        return _run(endpoint, launch.model_copy(update={"nodes": ground.nodes}), messages, Member())


def _refuse_damaged_features(workspace: Workspace) -> None:
    """A copy of prepared/ must be what its own list says: nothing else would notice."""
    place, file = workspace.prepared, workspace.prepared / FEATURES
    listed = read_json(file) if file.is_file() else {}

    def is_whole(name: str) -> bool:
        return (place / name).is_file() and sha256_once(place / name, workspace.digests) == listed[name]

    differ = [name for name in listed if not is_whole(name)]
    if differ or not listed:
        what = f"{', '.join(differ)}: not as {FEATURES} says" if differ else f"{FEATURES} is not there"
        remedy = "copy prepared/ from where dvc repro runs"
        raise UserError("this machine cannot take part", [Problem(str(place), what, remedy)])


def _origin(workspace: Workspace) -> dict[str, str]:
    device = next(iter(_gpus()), "cpu")
    versions = {f"the version of {name}": version(name) for name in _COMPUTING}
    talking = sha256_json([sha256_file(_PACKAGE / name) for name in _TALKING])
    return {**origin_of(workspace), **versions, "the code of the launcher": talking, "the kind of device": device}


def _run(endpoint: str, launch: LaunchParams, messages: Messages, machine: Machine) -> Outcome:
    """Train in rounds, until one ends the phase; `machine` says what it does about them."""
    address, is_head = own_address(*host_and_port(endpoint)), isinstance(machine, Head)
    _set_environment(endpoint, address, launch.processes, is_head)
    rendezvous = Rendezvous.at(endpoint, launch.nodes, address, machine, is_head)
    spec = WorkerSpec("train", launch.processes, rendezvous, entrypoint=sys.executable, args=_WORKER)
    spec.max_restarts = 1_000_000  # the machine says when it is enough
    spec.local_addr = address
    try:
        _Agent(spec, rendezvous).run()
    except (RendezvousError, DistError, Ended):
        if not messages.outcome:
            raise
    finally:
        rendezvous.shutdown()
    assert messages.outcome, "processes that end well report"
    return messages.outcome


class _Agent(LocalElasticAgent):
    """Torch's own, which tells the machine what becomes of its processes."""

    def __init__(self, spec: WorkerSpec, rendezvous: Rendezvous) -> None:
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull))
        self._rendezvous_here = rendezvous

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._rendezvous_here.before_start()
        processes: dict[int, Any] = super()._start_workers(worker_group)
        return processes

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """What became of them. When one has failed, torch kills the others: the machine hears of it before."""
        ended = self._exit_codes()
        if ended:
            self._after_failure(ended)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and not ended:  # since just now
            self._after_failure(self._exit_codes())
        return result

    def _after_failure(self, codes: list[int]) -> None:
        _, machines = self._rendezvous_here.formed
        self._rendezvous_here.machine.after_failure(codes, machines)

    def _exit_codes(self) -> list[int]:
        """Of the processes that failed; last those that only left because another one had."""
        handlers = self._pcontext.subprocess_handlers.values() if isinstance(self._pcontext, SubprocessContext) else ()
        return sorted((code for each in handlers if (code := each.proc.poll())), key=lambda code: code == ANOTHER_ROUND)

    def _exit_barrier(self) -> None:
        """Not torch's, in which whoever was lost is waited for, and no signal heard."""
        self._rendezvous_here.let_others_leave()


def _set_environment(endpoint: str, address: str, processes: int, is_head: bool) -> None:
    """For the processes to be started, which inherit it."""
    os.environ[STORE] = endpoint
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # NCCL's watchdog would abort a sum that a lost process has no part in, and let the update after it run.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGABRT"  # none of those that a stage handles itself
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    interface = interface_of(address)
    if interface:  # else gloo looks up the host's name, which may lead to another network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": no other that begins so
    os.environ.pop(HEAD, None)
    if is_head:
        os.environ[HEAD] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what ended, the machine says in words


def refuse_what_is_lacking(launch: LaunchParams) -> None:
    """Raise UserError where this machine cannot run so many processes."""
    if sys.platform == "win32":
        where = f"params.yaml: launch: processes {launch.processes}, nodes {launch.nodes}"
        remedy = "write processes: 1 and nodes: 1, or train under WSL"
        raise UserError("cannot start", [Problem(where, "several processes cannot train on Windows", remedy)])
    where, gpus = f"params.yaml: launch.processes = {launch.processes}", _gpus()
    if 0 < len(gpus) < launch.processes:
        remedy = f"write {len(gpus)}"
        raise UserError("cannot start", [Problem(where, f"is more than this machine has GPUs, {len(gpus)}", remedy)])
    kinds = sorted(set(gpus[: launch.processes]))
    if len(kinds) > 1:
        remedy = "give those of one kind, by the environment's CUDA_VISIBLE_DEVICES"
        raise UserError("cannot start", [Problem(where, f"would train on unlike GPUs: {', '.join(kinds)}", remedy)])


def _gpus() -> list[str]:
    """Their names; they must be alike, as each computes the step from the same gradient and must come to the same."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
