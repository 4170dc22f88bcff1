"""Several processes, and several machines, train as one does; killed, stopped or cut off, they go on.

Real processes under torch's elastic launcher, talking over gloo. A machine is a workspace with a launcher of its own,
or a network namespace.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from damage import replace_flipped
from making.params import LORA
from making.project import PROJECT
from once import made_once
from safetensors.torch import load_file
from small_runs import PHASE1, Before, Small

from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.tracking.curve import Curve, as_text, parse_rows

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="started as on Linux"), pytest.mark.timeout(900)]
PATIENCE = 300  # seconds until a process that does not get on has failed
TRAIN = (sys.executable, "-m", "xtts_finetune.stages", "train", "phase1")
JOIN = (sys.executable, "-m", "xtts_finetune.cli", "join")
LONG = 30  # epochs: long enough for something to happen meanwhile


def machine(before: Before, root: Path, processes: int = 1, nodes: int = 1, port: int = 0, **phase: Any) -> Small:
    """A workspace ready for phase 1, without dropout, which keeps every state."""
    small = before[PHASE1].copy(root)

    def change(params: dict[str, Any]) -> None:
        params["train_phase1"] |= {"batch_size": 4, "accumulate": 2, "dropout": 0.0, "warmup_steps": 0, **phase}
        params["checkpoints"] |= {"save_every_steps": 1, "keep_last": 1000}
        rendezvous = f"127.0.0.1:{port}" if port else None
        params["launch"] = {"processes": processes, "nodes": nodes, "rendezvous": rendezvous}

    small.change_params(change)
    return small


def start(small: Small, *command: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    log = (small.root.parent / f"{small.root.name}.log").open("w")
    with log:
        return subprocess.Popen(
            command, cwd=small.root, env=environment, text=True, stdout=log, stderr=log, start_new_session=True
        )


def said(small: Small) -> str:
    return (small.root.parent / f"{small.root.name}.log").read_text()


def finish(small: Small, process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for its end, which must be this; what it said."""
    with ended(process):
        assert process.wait(PATIENCE) == code, said(small)
    return said(small)


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Nothing of it is left behind, whatever happens in the block."""
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def wait_until(happened: Callable[[], object], process: "subprocess.Popen[str]", small: Small) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, said(small)
        assert time.monotonic() < deadline, f"nothing happens\n{said(small)}"
        time.sleep(0.02)


@contextmanager
def under_way(small: Small, step: int) -> "Iterator[subprocess.Popen[str]]":
    """Phase 1, with the state of `step` saved."""
    process = start(small, *TRAIN)
    with ended(process):
        wait_until(lambda: steps_saved(small) >= step, process, small)
        yield process


def steps_saved(small: Small) -> int:
    return max(small.states("phase1"), default=-1)


def worker(launcher: "subprocess.Popen[str]", local_rank: int) -> psutil.Process | None:
    """A process that the launcher started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(launcher.pid).children():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if child.environ().get("LOCAL_RANK") == str(local_rank):
                    return child
    return None


def listening(launcher: "subprocess.Popen[str]") -> set[str]:
    """The addresses at which it and its workers can be reached."""
    process = psutil.Process(launcher.pid)
    places = [at for each in (process, *process.children()) for at in each.net_connections()]
    return {at.laddr.ip for at in places if at.status == psutil.CONN_LISTEN}


def curve(small: Small) -> list[dict[str, Any]]:
    """Of steps and evaluations."""
    return list(parse_rows(as_text(Curve(small.root / "work" / "phase1" / "curve.jsonl").rows)))


def assert_as_one(small: Small, alone: Small) -> None:
    """Losses, evaluations, gradients (as the optimiser remembers the first: × 1 − β₁) and the best."""
    for row, other in zip(curve(small), curve(alone), strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    gradients, expected_gradients = (first_gradients(each) for each in (small, alone))
    assert gradients.keys() == expected_gradients.keys()
    whole = max(gradient.norm() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        apart = (gradient - expected).norm()
        assert apart <= 1e-5 * expected.norm() + 1e-8 * whole, name  # of some biases it is rounding alone
    figures, expected_figures = (read_json(each.root / "reports" / "train_phase1.json") for each in (small, alone))
    assert figures["step"] == expected_figures["step"]


def first_gradients(small: Small) -> dict[str, Any]:
    state = load_file(small.root / "checkpoints" / "phase1" / "step-00000001" / "optimizer.safetensors")
    return {name: moment for name, moment in state.items() if name.endswith(".exp_avg")}


def best(small: Small) -> str:
    return sha256_file(small.root / "models" / "phase1" / "model.safetensors")


def trained_once(before: Before, factory: pytest.TempPathFactory, name: str, **changes: Any) -> Small:
    def make(root: Path) -> None:
        small = machine(before, root / "small", **changes)
        finish(small, start(small, *TRAIN))

    return replace(before[PHASE1], root=made_once(factory, name, make) / "small")


@pytest.fixture(scope="module")
def alone(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """What one process makes of the same steps."""
    return trained_once(before, tmp_path_factory, "alone")


@pytest.fixture(scope="module")
def long_together(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """What two undisturbed processes make of many steps."""
    return trained_once(before, tmp_path_factory, "long_together", processes=2, epochs=LONG)


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@pytest.mark.slow
def test_two_processes_train_as_one(before: Before, alone: Small, tmp_path: Path) -> None:
    """The last batch of an epoch has a single clip: one of the processes has nothing to do there."""
    small = machine(before, tmp_path / "small", processes=2)
    process = start(small, *TRAIN)
    with ended(process):
        wait_until(lambda: steps_saved(small) >= 1, process, small)
        assert listening(process) == {"127.0.0.1"}, "nobody else can reach it"
        assert "in 2 processes" in finish(small, process)
    assert_as_one(small, alone)
    assert len(small.states("phase1")) == len(alone.states("phase1"))


@pytest.mark.slow
def test_three_processes_with_batches_by_tokens(before: Before, tmp_path: Path) -> None:
    budget = {"batch_tokens": 150, "mask_prompt": True, "schedule": "cosine", "ema": 0.5}
    small = machine(before, tmp_path / "small", processes=3, **budget)
    one = machine(before, tmp_path / "one", **budget)
    finish(one, start(one, *TRAIN))
    finish(small, start(small, *TRAIN))
    assert_as_one(small, one)


@pytest.mark.slow
def test_adapters_beside_weights_in_bf16(before: Before, tmp_path: Path) -> None:
    """Those that follow have frozen weights from the leader, too. Alike as far as bf16 is."""
    adapters = {**LORA, "lora": {**LORA["lora"], "dropout": 0.0}, "precision": "bf16", "epochs": 1}
    one, two = (machine(before, tmp_path / str(count), processes=count, **adapters) for count in (1, 2))
    for small in (one, two):
        finish(small, start(small, *TRAIN))
    expected, gradients = first_gradients(one), first_gradients(two)
    assert all("lora_" in name for name in expected)
    whole = max(gradient.norm() for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-3 * whole, name


@pytest.mark.slow
def test_a_killed_process_starts_again(before: Before, long_together: Small, tmp_path: Path) -> None:
    """A follower, and then the leader: all go on from the last state, to the same bytes as if nothing had happened.

    Also to params.yaml, which somebody edits meanwhile for the next run.
    """
    small = machine(before, tmp_path / "small", processes=2, epochs=LONG)
    with under_way(small, 1) as process:
        (small.root / "params.yaml").write_text("seed: [half", encoding="utf-8")
        for local_rank in (1, 0):
            least = steps_saved(small) + 5
            wait_until(lambda least=least: steps_saved(small) >= least, process, small)
            killed = worker(process, local_rank)
            assert killed is not None
            killed.kill()
            killed.wait(PATIENCE)
        text = finish(small, process)
    assert text.count("resuming phase1 after step") == 2
    assert best(small) == best(long_together)
    assert curve(small) == curve(long_together)


@pytest.mark.slow
def test_a_process_that_dies_again_and_again(before: Before, tmp_path: Path) -> None:
    small = machine(before, tmp_path / "small", processes=2, epochs=10 * LONG)
    with under_way(small, 2) as process:
        while process.poll() is None:  # before it can take part
            if follower := worker(process, 1):
                with suppress(psutil.NoSuchProcess):
                    follower.kill()
            time.sleep(0.2)
        text = finish(small, process, code=75)
    assert "all begin again (3 of 3 without a new state)" in text and "(4 of" not in text
    assert "processes ended too early again and again" in text


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_one_process_goes_on(before: Before, long_together: Small, tmp_path: Path) -> None:
    small = machine(before, tmp_path / "small", processes=2, epochs=LONG)
    with under_way(small, 5) as process:
        process.terminate()
        text = finish(small, process, code=75)
    assert f"stopped: phase1 is saved at step {steps_saved(small)}; run" in text
    assert "Traceback" not in text and "died" not in text
    small.change_params(lambda params: params["launch"].update(processes=1))
    text = finish(small, start(small, *TRAIN))
    assert "processes before: 2, now: 1; the steps are the same, up to rounding and dropout" in text
    for row, other in zip(curve(small), curve(long_together), strict=True):
        assert row == pytest.approx(other, rel=1e-2)  # roundings grow from step to step


@pytest.mark.slow
def test_when_the_launcher_is_killed_the_leader_saves(before: Before, tmp_path: Path) -> None:
    small = machine(before, tmp_path / "small", processes=2, epochs=10 * LONG)
    with under_way(small, 2) as process:
        workers = [worker(process, rank) for rank in range(2)]
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs([each for each in workers if each], timeout=60)
    assert not alive
    assert "stopped: phase1 is saved at step" in said(small)


@pytest.mark.slow
def test_a_mistake_is_not_tried_again(before: Before, tmp_path: Path) -> None:
    """The best weights are gone: the leader refuses, once, and all end."""
    small = machine(before, tmp_path / "small", processes=2)
    finish(small, start(small, *TRAIN))
    (small.root / "work" / "phase1" / "DONE").unlink()
    for folder in (small.root / "work" / "phase1").glob("step-*"):
        shutil.rmtree(folder)
    text = finish(small, start(small, *TRAIN), code=2)
    assert text.count("this run cannot be resumed") == 1
    assert "Traceback" not in text


@pytest.mark.slow
def test_another_machine_joins_both_phases(before: Before, alone: Small, tmp_path: Path, port: int) -> None:
    head, other = (machine(before, tmp_path / name, nodes=2, port=port) for name in ("head", "other"))
    joined, process = start(other, *JOIN), start(head, *TRAIN)
    with ended(joined), ended(process):
        text = finish(head, process)
        assert_as_one(head, alone)
        assert "in 2 processes" in text
        finish(head, start(head, *TRAIN[:-1], "phase2"))
        assert finish(other, joined).splitlines()[-1] == "phase2 is trained"
    assert not (other.root / "checkpoints").exists() and not other.states("phase1"), "only the leader writes"


@pytest.mark.slow
def test_machines_with_other_files_are_refused(before: Before, tmp_path: Path, port: int) -> None:
    """They alone: the head does not hear of them."""
    head, *others = (machine(before, tmp_path / name, nodes=2, port=port) for name in ("head", "0", "1", "2"))
    damaged, listed, base = (other.root / "prepared" for other in others)
    codes = "train.codes.i16"
    replace_flipped(damaged / codes)
    replace_flipped(listed / codes)
    write_json(listed / "features.json", read_json(listed / "features.json") | {codes: sha256_file(listed / codes)})
    replace_flipped(base / "base" / "vocab.json")
    expected = (f"{codes}: not as features.json says", "the prepared clips: not as at", "the base: not as at")
    process = start(head, *TRAIN)
    joined = [start(other, *JOIN) for other in others]
    with ended(process), ended(joined[0]), ended(joined[1]), ended(joined[2]):
        for other, join, what in zip(others, joined, expected, strict=True):
            text = finish(other, join, code=2)
            assert what in text
            assert "Traceback" not in text
        finish(head, process)


@pytest.mark.slow
def test_a_machine_whose_processes_fail_leaves(before: Before, alone: Small, tmp_path: Path, port: int) -> None:
    """It alone, though the others needed it: they go on without it."""
    head, other = (machine(before, tmp_path / name, nodes=2, port=port) for name in ("head", "other"))
    joined, process = start(other, *JOIN), start(head, *TRAIN)
    with ended(joined), ended(process):
        while joined.poll() is None:
            if failing := worker(joined, 0):
                with suppress(psutil.NoSuchProcess):
                    failing.kill()
            time.sleep(0.2)
        assert "processes of this machine ended too early 2 times (exit code -9)" in finish(other, joined, code=75)
        text = finish(head, process)
    assert "without a new state" not in text
    assert best(head) == best(alone)


@pytest.mark.slow
def test_a_machine_that_leaves_before_the_training_begins(
    before: Before, alone: Small, tmp_path: Path, port: int
) -> None:
    """Of the three that may come, one comes and goes again: the head does not wait for it."""
    head, other = (machine(before, tmp_path / name, nodes=3, port=port) for name in ("head", "other"))
    joined, process = start(other, *JOIN), start(head, *TRAIN)
    with ended(joined), ended(process):
        wait_until(lambda: psutil.Process(joined.pid).net_connections(), joined, other)
        time.sleep(10)  # the round is being formed for half a minute
        joined.send_signal(signal.SIGINT)
        assert "Traceback" not in finish(other, joined, code=130)
        finish(head, process)
    assert best(head) == best(alone)


@pytest.mark.slow
def test_a_third_machine_comes_while_a_round_begins(before: Before, alone: Small, tmp_path: Path, port: int) -> None:
    """The leader is stuck before it meets the other: all three begin together, at once."""
    head, *others = (machine(before, tmp_path / name, nodes=3, port=port) for name in ("head", "second", "third"))
    second = start(others[0], *JOIN)
    wait_until(lambda: "waiting for" in said(others[0]), second, others[0])
    process = start(head, *TRAIN)
    with ended(process), ended(second):
        wait_until(lambda: worker(process, 0), process, head)
        leader = worker(process, 0)
        assert leader is not None
        leader.suspend()
        third = start(others[1], *JOIN)
        with ended(third):
            text = finish(head, process)
    assert "another machine has come: all begin again, together" in text
    assert "in 3 processes" in text and "in 2 processes" not in text
    assert "too early" not in text
    assert_as_one(head, alone)


def test_where_machines_meet_must_be_said(before: Before, tmp_path: Path) -> None:
    small = machine(before, tmp_path / "small", nodes=2)
    assert "launch.rendezvous" in finish(small, start(small, *TRAIN), code=2)
    assert "XTTS_FINETUNE_RENDEZVOUS" in said(small)


@pytest.fixture
def network(tmp_path: Path) -> "Iterator[Network]":
    """Two machines and a cable, as far as the kernel can tell."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and ip, for network namespaces")
    network = Network(f"xtts{os.getpid()}")
    try:
        network.build()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel lets nobody make network namespaces: {error}")
    try:
        yield network
    finally:
        network.remove()


class Network:
    def __init__(self, name: str) -> None:
        self.names = [f"{name}{end}" for end in "ab"]  # of the namespaces, and of the ends of the cable in them
        self.addresses = ["10.77.41.1", "10.77.41.2"]

    def build(self) -> None:
        one, other = self.names
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", other, "netns", other)
        for name, address in zip(self.names, self.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            for device in ("lo", name):
                _ip("-n", name, "link", "set", device, "up")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def cut(self) -> None:
        _ip("-n", self.names[1], "link", "set", self.names[1], "down")

    def mend(self) -> None:
        _ip("-n", self.names[1], "link", "set", self.names[1], "up")

    def on(self, number: int, *command: str) -> tuple[str, ...]:
        """The command, on one of the two machines."""
        return ("ip", "netns", "exec", self.names[number], *command)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def apart(before: Before, tmp_path: Path, network: Network) -> list[Small]:
    """A head and another machine, which meet over the cable."""
    machines = [machine(before, tmp_path / name, nodes=2, epochs=LONG) for name in ("head", "other")]
    for each in machines:
        each.change_params(lambda params: params["launch"].update(rendezvous=f"{network.addresses[0]}:29400"))
    return machines


@pytest.mark.slow
def test_a_machine_cut_off_and_back(long_together: Small, apart: list[Small], network: Network) -> None:
    """For longer than the launchers wait for each other's sign of life: the step that was under way is finished."""
    head, other = apart
    joined, process = start(other, *network.on(1, *JOIN)), start(head, *network.on(0, *TRAIN))
    with ended(joined), ended(process):
        wait_until(lambda: steps_saved(head) >= 5, process, head)
        network.cut()
        time.sleep(20)
        cut_at = steps_saved(head)
        time.sleep(2)
        assert steps_saved(head) == cut_at, "nothing goes on without the other machine's share"
        network.mend()
        text = finish(head, process)
    assert "resuming" not in text and "in 2 processes" in text
    assert best(head) == best(long_together)


@pytest.mark.slow
def test_a_machine_lost_and_another_in_its_place(apart: list[Small], network: Network) -> None:
    """The head goes on alone; when another joins, all go on from the last state together."""
    head, other = apart
    for each in apart:
        each.change_params(lambda params: params["train_phase1"].update(epochs=20 * LONG))
    joined, process = start(other, *network.on(1, *JOIN)), start(head, *network.on(0, *TRAIN))
    with ended(process):
        with ended(joined):
            wait_until(lambda: steps_saved(head) >= 5, process, head)
        wait_until(lambda: "processes before: 2, now: 1" in said(head), process, head)
        lost_at = steps_saved(head)
        wait_until(lambda: steps_saved(head) > lost_at + 5, process, head)
        joined = start(other, *network.on(1, *JOIN))
        with ended(joined):
            wait_until(lambda: "processes before: 1, now: 2" in said(head), process, head)
            joined_at = steps_saved(head)
            wait_until(lambda: steps_saved(head) > joined_at + 5, process, head)
            process.terminate()
            finish(head, process, code=75)
            assert "stopped (exit code 75); why is said there" in finish(other, joined, code=75)
