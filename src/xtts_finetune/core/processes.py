"""Which process did something, written down so that another one can tell later whether it still lives; its cores."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

_MARK = re.compile(r"(\d+)-(\d+)-([0-9a-f]{8})")


@dataclass(frozen=True)
class ProcessMark:
    """A process by its number, its start and its host: numbers are given again, and a disk may be shared by hosts."""

    pid: int
    started: int  # in 1/100 s: since its host was booted on Linux, where clocks can be set; else since the epoch
    host: str  # 8 hex digits made of its name

    @classmethod
    def own(cls) -> "ProcessMark":
        """Of this process."""
        return _own(os.getpid())

    @classmethod
    def parse(cls, text: str) -> "ProcessMark | None":
        """What `str` wrote; None for anything else."""
        match = _MARK.fullmatch(text)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}-{self.host}"

    @property
    def is_of_this_host(self) -> bool:
        return self.host == _host()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs. On this host; of another's nothing can be known."""
        assert self.is_of_this_host
        return _start_of(self.pid) in (self.started, _HIDDEN)


_HIDDEN = -1  # the process is there, and its start is not for this user to see


@lru_cache(maxsize=1)
def _own(pid: int) -> ProcessMark:
    """By the number, which changes in a fork."""
    started = _start_of(pid)
    assert started is not None
    return ProcessMark(pid, started, _host())


def _host() -> str:
    return sha256(platform.node().encode()).hexdigest()[:8]


def _start_of(pid: int) -> int | None:
    """None if there is no such process, or only what is left of it until its parent takes notice."""
    import psutil  # not where no process is asked for

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since = psutil.boot_time() if sys.platform == "linux" else 0.0  # both move when the clock is set
        started: float = process.create_time() - since
        return round(started * 100)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return _HIDDEN


def cores() -> int:
    """How many processors this process may use: a scheduler may have given it a part of the machine."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
