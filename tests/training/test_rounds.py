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

from xtts_finetune.core.errors import EXIT_BUG, EXIT_DONE, EXIT_USER, Stopped
from xtts_finetune.training.messages import Leader, Messages, Outcome
from xtts_finetune.training.rounds import (
    OTHERS_RESTARTS,
    OWN_RESTARTS,
    RESTARTS,
    Ended,
    Head,
    Member,
    started,
    stopped_by_signals,
)
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
    return Head(messages, states)  # type: ignore[arg-type]


@pytest.fixture
def store() -> dist.HashStore:
    return dist.HashStore()


def rounds(head: Head, store: dist.HashStore, codes: list[int], count: int, machines: int = 2) -> None:
    """That begin, and end too early: with these exit codes of the head's own processes."""
    for _ in range(count):
        head.before_start(store)
        head.after_failure(codes, machines)
        head.before_round(store)


@pytest.fixture
def hangups() -> Iterator[None]:
    """Are heard, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# A leader that saves when it is asked to, one that dies instead, one that takes its time to stop, and one that waits
# where it hears no signal.
SAVES = """
import time
from xtts_finetune.training.messages import Leader, Messages
messages = Messages.to_launcher()
messages.leader = Leader.READY
while messages.leader != Leader.ASKED:
    time.sleep(0.05)
time.sleep(0.5)
messages.leader = Leader.SAVED
"""
HAS_NO_ROOM = SAVES.replace("Leader.SAVED", "Leader.READY") + "time.sleep(60)"
DIES = SAVES.replace("messages.leader = Leader.SAVED", "")
IS_SLOW = """
import signal, time
from xtts_finetune.training.messages import Leader, Messages
signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
    head.before_round(store)
    rounds(head, store, [EXIT_BUG], RESTARTS)
    states.steps.append(5)
    rounds(head, store, [-signal.SIGKILL, ANOTHER_ROUND], RESTARTS)
    assert store.get("newest") == b"5"
    with pytest.raises(Stopped, match="processes ended too early again and again"):
        rounds(head, store, [EXIT_BUG], 1)
    assert capfd.readouterr().out.count("3 of 3 without a new state") == 2


def test_other_machines_faults_use_up_no_patience(head: Head, store: dist.HashStore) -> None:
    """Each leaves by itself, after two; there may be some. But all has an end."""
    head.before_round(store)
    rounds(head, store, [ANOTHER_ROUND], OTHERS_RESTARTS)
    rounds(head, store, [EXIT_BUG], RESTARTS)
    with pytest.raises(Stopped):
        rounds(head, store, [ANOTHER_ROUND], 1)


def test_where_there_is_no_other_machine_none_is_at_fault(
    head: Head, store: dist.HashStore, capfd: pytest.CaptureFixture[str]
) -> None:
    """All processes of this one leave for each other, where NCCL cannot begin."""
    head.before_round(store)
    with pytest.raises(Stopped):
        rounds(head, store, [ANOTHER_ROUND, ANOTHER_ROUND], RESTARTS + 1, machines=1)
    assert "another machine" not in capfd.readouterr().out


def test_a_round_that_was_not_begun_is_none(head: Head, store: dist.HashStore) -> None:
    """A machine left while it was formed."""
    for _ in range(10 * RESTARTS):
        head.before_round(store)


def test_a_stop_and_an_outcome_let_none_begin(head: Head, messages: Messages, store: dist.HashStore) -> None:
    head.is_stopped = True
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
    rounds(head, store, [EXIT_BUG], RESTARTS)
    head.before_start(store)
    begin(SAVES, leader, messages, Leader.READY)
    assert not head.ends_round(0, 1, False), "one that is cut off may come back"
    assert head.ends_round(1, 0, False)
    assert messages.leader == Leader.SAVED
    assert leader[0].status() == psutil.STATUS_ZOMBIE
    head.before_round(store)


def test_where_a_state_has_no_room_it_waits(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    """What was trained since the newest state is not given up for another machine."""
    head.before_round(store)
    head.before_start(store)
    begin(HAS_NO_ROOM, leader, messages, Leader.READY)
    assert not head.ends_round(1, 0, False)
    assert leader[0].status() != psutil.STATUS_ZOMBIE
    messages.leader = Leader.READY
    assert not head.ends_round(1, 0, False)
    assert messages.leader == Leader.READY, "it is not asked again at once"


@pytest.mark.parametrize("why", ["it is asked to stop", "it has ended"])
def test_nobody_is_let_in_at_the_end(head: Head, messages: Messages, store: dist.HashStore, why: str) -> None:
    head.before_round(store)
    messages.leader = Leader.READY
    if why == "it has ended":
        messages.report(Outcome("phase1", EXIT_DONE))
    else:
        head.is_stopped = True
    assert not head.ends_round(1, 0, False)
    assert messages.leader == Leader.READY


def test_a_leader_that_dies_of_it_was_in_vain(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    head.before_round(store)
    rounds(head, store, [EXIT_BUG], RESTARTS)
    head.before_start(store)
    begin(DIES, leader, messages, Leader.READY)
    assert not head.ends_round(1, 0, False)
    with pytest.raises(Stopped):
        head.before_round(store)


@pytest.mark.parametrize(("come", "gone"), [(1, 0), (0, 1)])
def test_before_a_round_has_begun_nothing_is_waited_for(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore, come: int, gone: int
) -> None:
    """The leader may be stuck where it hears no signal, waiting for one that is gone."""
    head.before_round(store)
    rounds(head, store, [EXIT_BUG], RESTARTS)
    head.before_start(store)
    assert not head.ends_round(0, 0, False)
    begin(IS_STUCK, leader, messages, Leader.STARTING)
    assert head.ends_round(come, gone, False)
    assert leader[0].wait(30) == -signal.SIGKILL
    head.before_round(store)


def test_the_first_signal_asks_the_leader_and_the_second_ends_all(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    head.before_round(store)
    head.before_start(store)
    with stopped_by_signals(head, messages):
        begin(IS_SLOW, leader, messages, Leader.READY)
        signal.raise_signal(signal.SIGTERM)
        assert head.is_stopped and leader[0].is_running()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert leader[0].wait(30) == -signal.SIGKILL


def test_a_process_is_seen_from_its_first_moment(
    leader: "list[psutil.Process]", messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine Linux shows no environment of it for a while."""
    begin(IS_STUCK, leader, messages, Leader.NONE)
    read, nothing = psutil.Process.environ, [{}, {}]
    monkeypatch.setattr(psutil.Process, "environ", lambda self: nothing.pop() if nothing else read(self))
    assert started() == {"0": leader[0]}


@pytest.mark.usefixtures("hangups")
def test_a_dropped_connection_told_twice_asks_the_leader(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    head.before_round(store)
    head.before_start(store)
    with stopped_by_signals(head, messages):
        begin(IS_SLOW, leader, messages, Leader.READY)
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        assert head.is_stopped and leader[0].is_running()


def test_a_signal_before_there_is_anything_to_save_ends_all(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    """The leader may hear nothing until it has met the others."""
    head.before_round(store)
    head.before_start(store)
    with stopped_by_signals(head, messages), pytest.raises(KeyboardInterrupt):
        begin(IS_STUCK, leader, messages, Leader.STARTING)
        signal.raise_signal(signal.SIGINT)
    assert leader[0].wait(30) == -signal.SIGKILL


def test_a_machine_that_joined_ends_a_round_when_the_head_says_so(
    messages: Messages, leader: "list[psutil.Process]"
) -> None:
    """Its processes may be waiting for others that never come."""
    begin(IS_STUCK, leader, messages, Leader.NONE)
    assert not Member().ends_round(1, 1, False)
    assert leader[0].is_running()
    assert Member().ends_round(0, 0, True)
    assert leader[0].wait(30) == -signal.SIGKILL


def test_a_machine_that_fails_leaves_in_time(store: dist.HashStore) -> None:
    """What the others did does not count; what was saved since is a new start."""
    member = Member()
    for newest in ("-1", "7"):
        store.set("newest", newest)
        member.before_start(store)
        for _ in range(10):
            member.after_failure([ANOTHER_ROUND, ANOTHER_ROUND], 2)
        for _ in range(OWN_RESTARTS):
            member.after_failure([-signal.SIGKILL, ANOTHER_ROUND], 2)
    member.before_start(store)
    with pytest.raises(Stopped, match=r"ended too early 2 times \(exit code -9\); -9 is a kill"):
        member.after_failure([-signal.SIGKILL], 2)
    assert OWN_RESTARTS < RESTARTS


def test_what_the_user_must_mend_is_not_tried_again() -> None:
    with pytest.raises(SystemExit, match=str(EXIT_USER)):
        Member().after_failure([EXIT_USER], 2)
    Member().after_failure([EXIT_BUG], 2)


def test_a_leader_that_lost_another_brings_its_save_to_an_end(
    head: Head, messages: Messages, leader: "list[psutil.Process]", store: dist.HashStore
) -> None:
    """Before torch kills it. One that has not met the others has nothing to save, and may be stuck."""
    head.before_round(store)
    head.before_start(store)
    begin(IS_STUCK, leader, messages, Leader.STARTING)
    head.after_failure([EXIT_BUG], 2)
    assert leader[0].is_running()
    leader.pop().kill()
    begin(DIES, leader, messages, Leader.READY)
    messages.leader = Leader.ASKED  # it now takes half a second
    head.after_failure([EXIT_BUG], 2)
    assert leader[0].status() == psutil.STATUS_ZOMBIE
