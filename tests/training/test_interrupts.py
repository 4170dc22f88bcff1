"""Signals become requests; a second one acts as without us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from xtts_finetune.core.deadline import UNTIL
from xtts_finetune.training.interrupts import MadeWay, Newcomer, StopRequest, stop_on_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handlers as in a terminal, also where the tests run under nohup or in a shell's background, which ignore some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("interruptible")
def test_the_first_is_a_request(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal is number
    assert signal.getsignal(number) is before
    assert (
        capfd.readouterr().err
        == "\nasked to stop: this step is finished and saved first; asked again, it ends at once\n"
    )


@pytest.mark.usefixtures("interruptible")
def test_the_second_acts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_dropped_connection_is_one_however_often_it_is_told() -> None:
    """The kernel tells the foreground's processes, and bash tells its jobs again in the same millisecond."""
    with stop_on_signals() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_told_twice_a_stage_still_cleans_up() -> None:
    program = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from xtts_finetune.stages.process import begin_process
begin_process()
try:
    os.kill(os.getpid(), signal.SIGHUP)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGHUP)
    print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "cleaned up\n")


def test_for_another_machine_alone_no_step_is_lost() -> None:
    put_off: list[str] = []
    request = StopRequest(Newcomer(lambda: True, lambda: put_off.append("off")))
    assert request
    assert not request.is_granted(is_saved=False)
    assert put_off == ["off"]
    assert request.is_granted(is_saved=True)
    request.signal = signal.SIGTERM
    assert request.is_granted(is_saved=False)
    assert put_off == ["off"]


@pytest.mark.usefixtures("interruptible")
def test_under_a_launcher_the_second_is_no_more_than_the_first() -> None:
    with stop_on_signals(is_patient=True) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is signal.SIGINT


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_where_its_time_is_up_a_full_disk_puts_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    request = StopRequest(Newcomer(lambda: False, lambda: pytest.fail("nobody waits")))
    monkeypatch.setenv(UNTIL, repr(time.time() + 3_600))
    assert not request
    monkeypatch.setenv(UNTIL, repr(time.time() - 1))
    assert request
    assert request.is_granted(is_saved=False)
    assert not isinstance(request.granted("saved"), MadeWay)
    assert str(request.granted("saved")) == "the time that --for gave is up: saved"
