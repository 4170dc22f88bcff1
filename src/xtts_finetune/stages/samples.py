"""What a phase lets be heard while it trains: a process of its own says it, which neither changes nor delays a step."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.files import scratch_folder
from xtts_finetune.core.layout import SAMPLES, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params

if TYPE_CHECKING:
    from xtts_finetune.training.run import Tracker  # loads torch

_SPEAKING = ("-m", "xtts_finetune.stages.speaking")
_LOOK_SECONDS = 1.0  # between two looks for a state that is being written
_END_SECONDS = 10.0  # that a process has to end, before it is killed


class Sampled:
    """A tracker that also lets the run speak, at each so-many-th evaluation, with the weights that are saved there.

    One at a time: an evaluation that comes while the one before is still being said is left out.
    As a context manager it ends whoever speaks.
    """

    def __init__(self, tracker: "Tracker", workspace: Workspace, params: Params, phase: PhaseName) -> None:
        self._tracker, self._workspace, self._phase = tracker, workspace, phase
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
        if self._every is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._every is not None:
            self._thread.join()

    def _speak_when_due(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            step = self._due
            state = None if step is None else self._state(step)
            if step is None or state is None:  # it is being written; or had no room, or is gone: then another comes
                continue
            failure = self._speak(state)
            if self._due == step:
                self._due = None
            if not self._ended.is_set():
                tqdm.write(f"{self._phase}: {_said(self._workspace.spoken(self._phase, step), step, failure)}")

    def _state(self, step: int) -> Checkpoint | None:
        states = CheckpointReader(self._workspace.work(self._phase)).states()
        return next((each for each in states if each.step == step), None)

    def _speak(self, state: Checkpoint) -> str | None:
        """What went wrong, if something did."""
        try:
            with _kept(state) as weights:
                return self._run(state.step, weights)
        except OSError as error:  # a full disk; or the state is gone by now
            return str(error)

    def _run(self, step: int, weights: Path) -> str | None:
        """Let another process do it."""
        command = [sys.executable, *_SPEAKING, self._phase, str(step), str(weights)]
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(
                command,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.PIPE,  # that ends when this process does, however it does
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the trainer
            ) as process:
                while process.poll() is None:
                    if self._ended.wait(_LOOK_SECONDS):
                        _end(process)
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
        if process.returncode == 0:
            return None
        return lines[-1] if lines else f"exit code {process.returncode}"


def _said(folder: Path, step: int, failure: str | None) -> str:
    if failure is None:
        return f"hear step {step} in {folder}, in reports/index.html and in MLflow"
    return f"step {step} could not be heard, and training goes on: {failure}"


@contextmanager
def _kept(state: Checkpoint) -> Iterator[Path]:
    """Its weights under a second name, so that they are there until they are read, whatever retention deletes.

    Where a file cannot have one they are read where they are: a copy would need room that others count on.
    """
    with scratch_folder(state.folder.parent / f"{SAMPLES}.read") as folder:
        try:
            os.link(state.weights, folder / WEIGHTS)
        except FileNotFoundError:
            raise
        except OSError:
            yield state.weights
        else:
            yield folder / WEIGHTS


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
