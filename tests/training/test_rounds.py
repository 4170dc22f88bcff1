"""When a machine lets another round begin or gives up; what its launcher and its processes tell each other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import torch.distributed as dist
from making.project import PROJECT

from xtts_finetune.core.errors import EXIT_BUG, EXIT_DONE, EXIT_RESUMABLE, EXIT_USER, Stopped
from xtts_finetune.training.messages import Leader, Messages, Outcome
from xtts_finetune.training.rounds import OWN_RESTARTS, RESTARTS, Ended, Head, Member, Stop, ask_the_leader
from xtts_finetune.training.team import ANOTHER_ROUND

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="several processes are refused there")


class States:
    """Stand in for what is saved: steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def states(self) -> "list[States]":
        return [self] if self.steps else []

    @property
    def step(self) -> int:
        return self.steps[-1]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Messages:
    monkeypatch.setenv("XTTS_FINETUNE_LAUNCHER", "")  # set here, and put back
    return Messages.open()


@pytest.fixture
def states() -> States:
    return States()


@pytest.fixture
def head(messages: Messages, states: States) -> Head:
    return Head(Stop(ask_the_leader), states, messages)  # type: ignore[arg-type]


@pytest.fixture
def store() -> dist.HashStore:
    return dist.HashStore()


# A leader that saves when it is told to stop, one that dies instead, and one that waits for something in C++.
SAVES = """
import signal, sys, time
from xtts_finetune.training.messages import Leader, Messages
messages = Messages.to_launcher()
def save(*_):
    time.sleep(0.5)
    messages.leader = Leader.SAVED
    sys.exit(76)
signal.signal(signal.SIGTERM, save)
messages.leader = Leader.READY
time.sleep(60)
"""
DIES = """
import time
from xtts_finetune.training.messages import Leader, Messages
Messages.to_launcher().leader = Leader.READY
time.sleep(60)
"""
IS_STUCK = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


@pytest.fixture
def leader(messages: Messages) -> "Iterator[list[psutil.Process]]":
    """Filled by `begin`."""
    begun: list[psutil.Process] = []
    yield begun
    for process in begun:
        with suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(10)


def begin(program: str, leader: "list[psutil.Process]", messages: Messages, stage: Leader) -> None:
    environment = {"LOCAL_RANK": "0", "PYTHONPATH": str(PROJECT / "src")}
    environment |= {"XTTS_FINETUNE_LAUNCHER": os.environ["XTTS_FINETUNE_LAUNCHER"]}
    leader.append(psutil.Process(subprocess.Popen([sys.executable, "-c", program], env=environment).pid))
    while messages.leader != stage:
        assert leader[0].status() != psutil.STATUS_ZOMBIE


def test_rounds_in_vain_come_to_an_end(
    head: Head, states: States, store: dist.HashStore, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(1 + RESTARTS):
        head.before_round(store)
    states.steps.append(5)
    for _ in range(1 + RESTARTS):
        head.before_round(store)
    assert store.get("newest") == b"5"
    with pytest.raises(Stopped, match="processes ended too early again and again"):
        head.before_round(store)
    assert capfd.readouterr().out.count("3 of 3 in vain") == 2


def test_a_stop_and_an_outcome_let_none_begin(head: Head, messages: Messages, store: dist.HashStore) -> None:
    head._stop.is_asked = True
    with pytest.raises(KeyboardInterrupt):
        head.before_round(store)
    messages.report(Outcome("phase1", EXIT_USER))
    with pytest.raises(Ended):
        head.before_round(store)
    assert messages.outcome == Outcome("phase1", EXIT_USER)


def test_another_machine_comes(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    """The leader saves; that round was not in vain."""
    head.before_round(store)
    begin(SAVES, leader, messages, Leader.READY)
    assert not head.ends_round(0, 1), "one that is cut off may come back"
    assert head.ends_round(1, 0)
    assert leader[0].status() == psutil.STATUS_ZOMBIE
    assert messages.leader == Leader.SAVED
    assert head.ends_round(1, 0), "and once more, until all have begun again"
    for _ in range(1 + RESTARTS):
        head.before_round(store)


def test_a_leader_that_dies_of_it_was_in_vain(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    for _ in range(1 + RESTARTS):
        head.before_round(store)
    begin(DIES, leader, messages, Leader.READY)
    assert head.ends_round(1, 0)
    with pytest.raises(Stopped):
        head.before_round(store)


@pytest.mark.parametrize(("come", "gone"), [(1, 0), (0, 1)])
def test_before_a_round_has_begun_nothing_is_waited_for(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore, come: int, gone: int
) -> None:
    """The leader may be stuck where it hears no signal, waiting for one that is gone."""
    head.before_round(store)
    assert not head.ends_round(0, 0)
    begin(IS_STUCK, leader, messages, Leader.STARTING)
    assert head.ends_round(come, gone)
    assert leader[0].wait(30) == -signal.SIGKILL
    for _ in range(1 + RESTARTS):
        head.before_round(store)


def test_a_machine_that_fails_leaves_in_time(store: dist.HashStore) -> None:
    """Earlier than the head gives up; what the others did does not count, and what was saved since is a new start."""
    member = Member()
    assert not member.ends_round(1, 1)
    for newest in ("-1", "7"):
        store.set("newest", newest)
        member.after_round_formed(store)
        for _ in range(10):
            member.after_failure([ANOTHER_ROUND])
        for _ in range(OWN_RESTARTS):
            member.after_failure([ANOTHER_ROUND, -signal.SIGKILL])
    member.after_round_formed(store)
    with pytest.raises(Stopped, match=r"ended too early 2 times \(exit code -9\); -9 is a kill"):
        member.after_failure([-signal.SIGKILL])
    assert OWN_RESTARTS < RESTARTS


def test_what_the_user_must_mend_is_not_tried_again() -> None:
    with pytest.raises(SystemExit, match=str(EXIT_USER)):
        Member().after_failure([EXIT_USER])
    Member().after_failure([EXIT_BUG, EXIT_DONE, EXIT_RESUMABLE])
