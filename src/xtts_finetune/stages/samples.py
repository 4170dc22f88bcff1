"""What a phase lets be heard while it trains: a process of its own says it, which changes no step and delays none."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.disk import files_below, free_bytes, held_bytes, shown
from xtts_finetune.core.errors import EXIT_USER
from xtts_finetune.core.files import leftovers_in, scratch_folder
from xtts_finetune.core.layout import SAMPLES, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.removal import remove
from xtts_finetune.diskspace.sizes import WEIGHT_BYTES, all_parameters

if TYPE_CHECKING:
    from xtts_finetune.training.run import Tracker  # loads torch

_SPEAKING = ("-m", "xtts_finetune.stages.speaking")
_LOOK_SECONDS = 1.0  # between two looks for a state that is being written
_END_SECONDS = 10.0  # that a process has to end, before it is killed
_MOST_SECONDS = 3600.0  # that it has to speak: what takes longer hangs
_WEIGHTS_IN_MEMORY = 2.5  # times the weights is what it holds at the most: measured with XTTS v2's shapes
_MOST_LINES = 6  # of what it says is wrong


class _NotNow(Exception):
    """Nobody speaks: why."""


class Sampled:
    """A tracker that also lets the run speak, at each so-many-th evaluation, with the weights that are saved there.

    One at a time: of evaluations that come while one is still being said, the last is next.
    As a context manager it ends whoever speaks.
    """

    def __init__(self, tracker: "Tracker", workspace: Workspace, params: Params, phase: PhaseName) -> None:
        self._tracker, self._workspace, self._params, self._phase = tracker, workspace, params, phase
        self._every = params.samples.every_evaluations
        self._evaluated: set[int] = set()  # steps; those of before a resume are told again
        self._due: int | None = None  # the step that is to be heard next
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak_when_due, name="samples", daemon=True)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """As the tracker's."""
        self._tracker.log(step, metrics)
        if self._every is not None and "eval/mel_ce" in metrics and step not in self._evaluated:
            if len(self._evaluated) % self._every == 0 and not self._workspace.spoken(self._phase, step).exists():
                self._due = step
            self._evaluated.add(step)

    def __enter__(self) -> "Sampled":
        self._clear_leftovers()
        if self._every is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._every is not None:
            self._thread.join()
            self._clear_leftovers()

    def _clear_leftovers(self) -> None:
        """What one who was ended, or killed, had not finished."""
        for leftover in leftovers_in(self._workspace.work(self._phase) / SAMPLES):
            remove(leftover)

    def _speak_when_due(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            step = self._due
            state = None if step is None else self._state(step)
            if step is None or state is None:  # it is being written; or had no room, or is gone: then another comes
                continue
            said = self._speak(state)
            if self._due == step:
                self._due = None
            if not self._ended.is_set():
                tqdm.write(f"{self._phase}: {said}")

    def _state(self, step: int) -> Checkpoint | None:
        states = CheckpointReader(self._workspace.work(self._phase)).states()
        return next((each for each in states if each.step == step), None)

    def _speak(self, state: Checkpoint) -> str:
        """What came of it, in a line or some."""
        try:
            self._refuse_what_others_need(state)
            with _kept(state) as weights:
                self._run(state.step, weights)
        except (_NotNow, OSError) as why:  # a full disk; or the state is gone by now
            return f"step {state.step} could not be heard, and training goes on: {why}"
        return f"hear step {state.step}: {self._workspace.spoken(self._phase, state.step)}"

    def _refuse_what_others_need(self, state: Checkpoint) -> None:
        """Nobody speaks at the cost of a save, or of the training's memory.

        Weights that are read while retention deletes their state hold their room until they are read.
        """
        wanted = held_bytes(files_below(state.folder)) + state.weights.stat().st_size
        free = free_bytes(state.folder)
        if free < wanted:
            raise _NotNow(f"the disk has {shown(free)} free, and the next states come first ({shown(wanted)})")
        parameters = all_parameters(self._workspace, self._params.base) or 0
        needed, available = int(_WEIGHTS_IN_MEMORY * WEIGHT_BYTES * parameters), psutil.virtual_memory().available
        if available < needed:
            raise _NotNow(f"it takes {shown(needed)} of memory, and {shown(available)} are free")

    def _run(self, step: int, weights: Path) -> None:
        """Let another process do it.

        Raises:
            _NotNow: it failed, or hangs.
        """
        command = [sys.executable, *_SPEAKING, self._phase, str(step), str(weights)]
        until = time.monotonic() + _MOST_SECONDS
        with tempfile.TemporaryFile() as said:
            # In the session of this process: where processes are grouped by that, its priority counts only within.
            with subprocess.Popen(
                command,
                bufsize=0,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.PIPE,  # that ends when this process does, however it does
                stdout=said,
                stderr=subprocess.STDOUT,
            ) as process:
                assert process.stdin
                with suppress(BrokenPipeError):  # it is gone, and says why
                    process.stdin.write(f"{self._params.model_dump_json()}\n".encode())
                while process.poll() is None and time.monotonic() < until:
                    if self._ended.wait(_LOOK_SECONDS):
                        break
                _end(process)
            said.seek(0)
            text = said.read().decode("utf-8", "replace").strip()
        if time.monotonic() >= until:
            raise _NotNow(f"it took longer than {_MOST_SECONDS / 60:.0f} min")
        if process.returncode:
            raise _NotNow(_reason(process.returncode, text))


def _reason(code: int, text: str) -> str:
    if code < 0:
        return f"signal {-code} ended it"
    lines = text.splitlines()
    if code == EXIT_USER and "error: " in text:
        return "\n  ".join(text[text.rindex("error: ") :].splitlines()[:_MOST_LINES])
    return lines[-1] if lines else f"exit code {code}"


@contextmanager
def _kept(state: Checkpoint) -> Iterator[Path]:
    """Its weights under a second name, so that they are there until they are read, whatever retention deletes.

    Who reads them deletes that name: their room is another's then. Where a file cannot have two names, as on exFAT,
    they are read where they are: a copy would need room that others count on.
    """
    with scratch_folder(state.folder.parent / f"{SAMPLES}.read") as folder:
        own = folder / WEIGHTS
        try:
            os.link(state.weights, own)
        except FileNotFoundError:
            raise
        except OSError:
            own = state.weights
        yield own


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
