"""DVC as people call it, for commands that need it to agree."""

import getpass
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from xtts_finetune.core.disk import free_bytes
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import PHASES, Workspace

_REPRODUCES = re.compile(r"\bdvc(\.exe|[/\\]__main__\.py)? (repro|(exp|experiments) (run|exec-run))\b")
NEXT = "dvc repro"  # that runs, and is between two stages, or before the first
ROOM = 16 * 2**20  # bytes that DVC is given: its database of hashes, lock files, dvc.lock


def dvc(workspace: Workspace, *arguments: str) -> str:
    """Run a DVC command in the workspace; what it prints to stdout. Its progress is seen on a terminal.

    Raises:
        UserError: it failed; with the last lines that it said.
    """
    watched = sys.stderr.isatty()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace.root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if watched else subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise _failure(workspace, arguments, done.stderr)
    return done.stdout


def _failure(workspace: Workspace, arguments: tuple[str, ...], said: str | None) -> UserError:
    """What DVC said last; on a terminal it has been read there."""
    where, remedy = f"dvc {' '.join(arguments)}", "see what it says"
    lines = [line.strip() for line in (said or "it says why above").splitlines() if line.strip()]
    blocking = [line for line in lines if line.startswith("(PID ")]
    if blocking:
        what = f"DVC is busy here: {blocking[0]}"
        busy = Problem(where, what, "wait for it, or stop it (Ctrl-C saves the state)")
        return UserError("not now: a stage, or another command of DVC, is running here", [busy])
    if is_cut_short(workspace):
        what = "a full disk cut short .dvc/tmp/rwlock, DVC's list of who is at work here"
        again = "when no other dvc runs here, delete .dvc/tmp/rwlock; then again"
        return UserError("DVC failed", [Problem(where, what, again)])
    what = " ".join(line for line in lines[-4:] if "dvc.org/support" not in line)
    return UserError("DVC failed", [Problem(where, what, remedy)])


def is_cut_short(workspace: Workspace) -> bool:
    """Whether a full disk left DVC's list of who is at work as what it cannot read: then it runs no command."""
    try:
        json.loads((workspace.root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))
    except ValueError:
        return True
    except OSError:  # there is none
        return False
    return False


def changed_stages(workspace: Workspace, *targets: str) -> dict[str, list[Any]]:
    """`dvc status`: stage or .dvc file → what changed; those that are up to date are left out.

    Args:
        targets: stages that are asked for with those before them; none: all.
    """
    asked = ["--with-deps", *targets] if targets else []
    changed: dict[str, list[Any]] = json.loads(dvc(workspace, "status", "--json", *asked))
    return changed


def running_stage(workspace: Workspace) -> str | None:
    """The stage that `dvc repro` runs now, or whose outs it stores, by DVC's list of who writes where.

    NEXT, where it runs, and writes nowhere; None: it does not.
    """
    places = {workspace.base_checked: "check", workspace.prepared: "prepare", workspace.evaluation: "evaluate"}
    places |= {workspace.model(phase): f"train_{phase}" for phase in PHASES}
    found = read_json_object(workspace.root / ".dvc" / "tmp" / "rwlock").get("write")
    writers: dict[str, Any] = found if isinstance(found, dict) else {}
    for place, stage in places.items():
        writer = writers.get(str(workspace.root.resolve() / place.relative_to(workspace.root)))
        if isinstance(writer, dict) and _reproduces(writer):
            return stage
    return NEXT if _is_between_stages(workspace) else None


def _is_between_stages(workspace: Workspace) -> bool:
    """By the process that had DVC's lock last, which it takes before and after each stage."""
    try:
        pid = int((workspace.root / ".dvc" / "tmp" / "lock").read_text(encoding="utf-8"))
        if pid <= 0:
            return False
        if os.name == "posix":
            os.kill(pid, 0)  # mostly it is gone, which is told without loading psutil
    except (OSError, ValueError, OverflowError):  # or never was taken, or is another user's
        return False
    import psutil

    try:
        process = psutil.Process(pid)
        is_here = Path(process.cwd()).is_relative_to(workspace.root.resolve())
        return is_here and _REPRODUCES.search(" ".join(process.cmdline())) is not None
    except (OSError, OverflowError, psutil.Error):
        return False


def _reproduces(writer: dict[str, Any]) -> bool:
    """Whether an entry of that list is of a command that runs stages, and lives."""
    pid, command = writer.get("pid"), str(writer.get("cmd"))
    return isinstance(pid, int) and _REPRODUCES.search(command) is not None and is_python(pid)


def is_python(pid: int) -> bool:
    """Whether a process lives that may be DVC's: one that was killed leaves its number to others."""
    import psutil  # not where no process is asked for

    try:
        return "python" in psutil.Process(pid).exe().lower() or sys.platform == "win32"  # there dvc.exe starts it
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OverflowError, ValueError):  # it is gone; or what stands there is no number of a process
        return False


def give_dvc_room() -> None:
    """Have DVC keep its database elsewhere, from here on, if its place is full: it cannot even start there."""
    from dvc.dirs import site_cache_dir

    if free_bytes(Path(site_cache_dir())) >= ROOM:
        return
    for place in (Path(tempfile.gettempdir()), Path("/dev/shm"), Path.home()):
        if place.is_dir() and os.access(place, os.W_OK) and free_bytes(place) >= ROOM:
            os.environ["DVC_SITE_CACHE_DIR"] = str(place / f"dvc-{getpass.getuser()}")
            return
