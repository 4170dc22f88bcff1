"""A process that has paid for `import TTS` once and forks at every request: a child runs a stage as dvc.yaml calls it.

Requests are JSON objects, a line each, on stdin; the answer is a line on stdout:

    {"make": folder, "log": …}    `making.workspaces.small`; the exit status of who made it
    {"stage": [...], "root": …, "log": …, "count": …, "at": …, "environment": …}    pid of a child that runs the stage
    {"wait": pid, "hang": bool}    its exit code, or minus the signal; null while it runs

What the children are given is documented in `small_runs`.
"""

import atexit
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.tracking import connection

os.environ |= connection._ENVIRONMENT  # read by mlflow when it is imported

import altair  # noqa: F401 - paid for once
import mlflow.pyfunc
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - paid for once
import sqlalchemy.orm
import torch
from making import bases, workspaces  # noqa: F401 - paid for once

from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.data import batches
from xtts_finetune.model.device import make_deterministic
from xtts_finetune.report import charts, pages
from xtts_finetune.stages import evaluate, train  # noqa: F401 - paid for once
from xtts_finetune.stages.__main__ import main

# Drawing takes longer than all of a small stage, and is tested on its own; what is drawn is written, as ever.
charts.picture = lambda chart: "<svg></svg>\n"
pages.page_of = lambda *_: "<!doctype html>\n"

# What changes a folder, by the names of Python's audit events. "open" counts when it is for writing.
CHANGES = ("open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod")


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], 0 if request["hang"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _live_as_a_child(request)
            if "make" in request:
                answer = os.waitstatus_to_exitcode(os.waitpid(answer, 0)[1])
        print(json.dumps(answer), flush=True)


def _live_as_a_child(request: dict[str, Any]) -> None:
    """Does not return, and ends as an interpreter does, but for the seconds that freeing all modules takes."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = _to_nobody() if request["log"] is None else os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        code = make(request) if "make" in request else run(request)
    except BaseException:  # noqa: BLE001 - the interpreter's own way to end
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _to_nobody() -> int:
    """A pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def make(request: dict[str, Any]) -> int:
    workspaces.small(Path(request["make"]))
    return 0


def run(request: dict[str, Any]) -> int:
    """The stage, in the folder, with things happening at some of its changes to the folder."""
    root = os.path.realpath(request["root"])
    os.chdir(root)
    os.environ |= request["environment"]
    _at_changes(root, request["count"], request["at"])
    sys.argv = ["stages", *request["stage"]]
    return exit_code_of(main)


def _at_changes(root: str, count: str, at: dict[str, str]) -> None:
    """Keep the number of changes to the folder in the file `count`, and let happen `at` what `small_runs.At` says."""
    counter = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    waiting = dict(at)
    seen: Counter[str] = Counter()
    busy = False

    def hook(name: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        path = None if busy or name not in CHANGES else _changed(root, name, args)
        if path is None:
            return
        seen.update(["", *(place for place, _, _ in (when.rpartition("#") for when in at) if place and place in path)])
        os.pwrite(counter, b"%d\n" % seen[""], 0)
        for when in [when for when in waiting if seen[when.rpartition("#")[0]] == int(when.rpartition("#")[2])]:
            busy = True
            _do(waiting.pop(when), root)
            busy = False

    sys.addaudithook(hook)


def _changed(root: str, name: str, args: tuple[Any, ...]) -> str | None:
    if isinstance(args[0], int) or (name == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return None
    path = os.path.abspath(os.fsdecode(args[0]))
    return path if path.startswith(root) else None


def _do(what: str, root: str) -> None:
    filler = os.path.join(os.path.dirname(root), "filler")
    match what.split():
        case ["fill", leave]:
            with open(filler, "wb") as file:
                while (size := _free(root) - int(leave)) > 0:
                    with suppress(OSError):  # another thread has just written
                        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size + size)
        case ["exhaust", function, call]:
            _exhaust(function, int(call))
        case ["free"]:
            os.unlink(filler)
        case [name]:
            os.kill(os.getpid(), signal.Signals[name])


def _exhaust(function: str, call: int) -> None:
    """Have this call of a function of training/ ask for a petabyte when it has done its work."""
    module, _, name = function.rpartition(".")
    owner = importlib.import_module(f"xtts_finetune.training.{module}")
    original, calls = getattr(owner, name), itertools.count(1)

    def exhausting(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if next(calls) == call:
            torch.empty(1 << 50, dtype=torch.uint8)
        return result

    setattr(owner, name, exhausting)


def _free(root: str) -> int:
    left = os.statvfs(root)
    return left.f_bavail * left.f_frsize


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, also where the tests run under nohup
    make_deterministic()
    torch.set_num_threads(1)
    # slices of a second: encoding six takes most of the time of a tiny model's step
    batches.CONDITIONING_MIN, batches.CONDITIONING_MAX = SAMPLE_RATE // 2, SAMPLE_RATE
    batches.CONDITIONING_STEP = SAMPLE_RATE // 8
    sqlalchemy.orm.configure_mappers()
    gc.freeze()  # collecting in a child would copy the parent's pages
    serve()
