"""Processes that are stopped, and of which no thread runs any more: sending SIGSTOP does not wait for that."""

import os
import signal
import time
from pathlib import Path

import psutil


def stop_all(group: int) -> None:
    """Stop a group of processes; when this returns, none of their threads changes anything."""
    os.killpg(group, signal.SIGSTOP)
    wait_until_stopped(group)


def wait_until_stopped(group: int) -> None:
    """Until something has stopped the whole group, e.g. itself; fails if it ends first."""
    while not _stopped(group):
        time.sleep(0.01)


def _stopped(group: int) -> bool:
    members = [pid for pid in psutil.pids() if group in (pid, _group_of(pid))]  # its leader may not have made it yet
    states = {state for pid in members for state in _states(pid)}
    assert states - {"Z", "X"}, f"nothing of the group {group} runs any more"
    return states <= {"T", "Z", "X"}


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:  # ended since it was listed
        return None


def _states(pid: int) -> list[str]:
    """A letter for every thread, by proc(5)."""
    try:
        files = [thread / "stat" for thread in Path(f"/proc/{pid}/task").iterdir()]
        return [file.read_text(encoding="utf-8").rpartition(")")[2].split()[0] for file in files]
    except (FileNotFoundError, ProcessLookupError):
        return ["R"]  # its threads come and go
