"""Where launchers meet: what they survive there, and what they refuse."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from threading import Timer

import psutil
import pytest
from making.project import PROJECT
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.meeting_place import listening
from xtts_finetune.training import meeting

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="several processes are refused there")
SERVE = """
import sys, time
from xtts_finetune.core.meeting_place import listening
from xtts_finetune.training.meeting import open_store
store = open_store(listening("127.0.0.1:0"))
print(store.port, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """A head, as far as its store."""
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.send_signal(SIGCONT)
        process.kill()


@pytest.fixture
def backend(server: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch) -> meeting._Backend:
    assert server.stdout
    monkeypatch.setattr(meeting, "PATIENCE", timedelta(seconds=1))
    return meeting._Backend(f"127.0.0.1:{int(server.stdout.readline())}")


def test_a_long_silence_is_survived(backend: meeting._Backend, server: "subprocess.Popen[str]") -> None:
    """Longer than one call waits for its answer."""
    assert backend.set_state(b"a round")
    server.send_signal(SIGSTOP)
    while psutil.Process(server.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    begun = time.monotonic()
    Timer(4, server.send_signal, [SIGCONT]).start()
    state = backend.get_state()
    assert state and state[0] == b"a round"
    assert time.monotonic() - begun > 3, "there was a silence"
    for _ in range(3):  # and no late answer is taken for another call's
        assert backend.get_state() == state


def test_a_head_that_is_gone_is_not_waited_for(backend: meeting._Backend, server: "subprocess.Popen[str]") -> None:
    server.kill()
    server.wait()
    with pytest.raises(RendezvousConnectionError):
        backend.get_state()


@pytest.mark.parametrize("seconds", [-20, 20])
def test_another_clock_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    with listening("127.0.0.1:0") as probe:
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    store = meeting.open_meeting(endpoint, meeting.Ground(2, {}))
    meeting.refuse_another_clock(endpoint)
    ours = time.time
    monkeypatch.setattr(meeting, "_now", lambda: ours() + seconds)
    with pytest.raises(UserError, match="its clock and this machine's are 20 s apart"):
        meeting.refuse_another_clock(endpoint)
    assert store.port


def test_who_leaves_waits_for_nobody(
    backend: meeting._Backend, server: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_is_there", lambda endpoint: True)
    server.kill()
    server.wait()
    backend.is_patient = False
    with pytest.raises(RendezvousConnectionError):
        backend.get("over")


def test_who_listens_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch itself would wait without end, and hear no signal."""
    monkeypatch.setattr(meeting, "PATIENCE", timedelta(seconds=0.5))
    with socket.create_server(("127.0.0.1", 0)) as foreign, pytest.raises(meeting.Silent):
        meeting.ground_of(f"127.0.0.1:{foreign.getsockname()[1]}")
