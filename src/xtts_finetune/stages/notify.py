"""`notify.command` of params.yaml: told when a stage stops, all is done, a target is reached or the disk is low."""

import os
import subprocess
import tempfile
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import psutil
from tqdm import tqdm

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.layout import DVC_EXPERIMENT, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.report.gathering import Stage, gather
from xtts_finetune.report.text import text_of

if TYPE_CHECKING:
    from xtts_finetune.training.run import Tracker  # loads torch

Event = Literal["stop", "finish", "target", "disk low"]
EVENT = "XTTS_FINETUNE_EVENT"  # which it is, for the command
TIMEOUT = 60.0  # seconds that a command has
_LINES = 30  # of the report, on its stdin


def notify(workspace: Workspace, params: Params, event: Event, what: str, ended: Stage | None = None) -> None:
    """Run the command with what happened and the report's first lines as its input. No stage fails of it.

    Args:
        what: happened, in a line.
        ended: as `gather`.
    """
    command = params.notify.command
    if command is None:
        return
    if workspace.is_copy:
        what = f"experiment {os.environ.get(DVC_EXPERIMENT, '')}: {what}"
    try:
        lines = [what, "", *text_of(gather(workspace, ended, is_stage=True)).splitlines()[:_LINES]]
    except Exception as error:  # noqa: BLE001 - of a notification no stage may fail
        lines = [what, "", f"the report cannot be made: {error}"]
    failure = _run(workspace, command, event, as_typed("\n".join(lines)) + "\n")
    if failure:
        tqdm.write(f"notify.command could not tell of {event}: {failure}")


def _run(workspace: Workspace, command: str, event: Event, text: str) -> str | None:
    """What went wrong, if something did."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:  # no pipe, which children may hold
        given.write(text.encode("utf-8"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                shell=True,  # as people write it: with pipes and variables
                cwd=workspace.home.root,
                env={**os.environ, EVENT: event},
                stdin=given,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"it took longer than {TIMEOUT:g} s"
        except OSError as error:
            return str(error)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return None if code == 0 else f"exit code {code}{f': {lines[-1]}' if lines else ''}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it started."""
    with suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


class Notified:
    """A tracker that also tells of the target and of the disk, once each; the training does not wait for it."""

    def __init__(self, tracker: "Tracker", workspace: Workspace, params: Params, phase: PhaseName, since: int) -> None:
        """`since`: the step that the run goes on from; what was before it was told before."""
        self._tracker, self._workspace, self._params, self._phase = tracker, workspace, params, phase
        self._since, self._target = since, params.phase(phase).target_mel_ce
        self._told: set[Event] = set()
        self._telling: list[threading.Thread] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """As the tracker's."""
        self._tracker.log(step, metrics)
        if step <= self._since:
            return
        best = min((metrics[name] for name in ("eval/mel_ce", "eval_ema/mel_ce") if name in metrics), default=None)
        if best is not None and self._target is not None and best <= self._target:
            self._tell("target", f"{self._phase} has reached its target: Mel CE {best:.3f} at step {step}")
        if metrics.get("disk/saves_skipped"):
            self._tell("disk low", f"the disk had no room for the state of {self._phase} at step {step}")

    def _tell(self, event: Event, what: str) -> None:
        if event not in self._told:
            self._told.add(event)
            told = threading.Thread(target=notify, args=(self._workspace, self._params, event, what), daemon=True)
            told.start()
            self._telling.append(told)

    def finish(self) -> None:
        """Wait until all was told; the process may end behind it."""
        for told in self._telling:
            told.join(TIMEOUT)
