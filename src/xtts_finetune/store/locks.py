"""The phases' locks, seen from outside: who is being trained, and keeping trainers out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_finetune.core.paths import PHASES, PhaseName, Workspace


def trained_now(workspace: Workspace) -> set[PhaseName]:
    """The phases that a trainer holds. Leaves no lock file where there is none."""
    return {phase for phase in PHASES if _is_held(_lock_path(workspace, phase))}


@contextmanager
def trainers_kept_out(workspace: Workspace) -> Iterator[set[PhaseName]]:
    """Hold the locks of all phases that no trainer holds; yields the phases that one does."""
    live: set[PhaseName] = set()
    with ExitStack() as held:
        for phase in PHASES:
            path = _lock_path(workspace, phase)
            path.parent.mkdir(exist_ok=True)
            try:
                held.enter_context(FileLock(path).acquire(timeout=0))
            except Timeout:
                live.add(phase)
        yield live


def _lock_path(workspace: Workspace, phase: PhaseName) -> Path:
    return workspace.work(phase).with_suffix(".lock")


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
