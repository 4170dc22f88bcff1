"""`python -m xtts_finetune.stages prepare | train phase1 | train phase2 | evaluate`: what dvc.yaml calls."""

import os
import signal
import sys

from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.preflight import preflight, preflight_evaluate, preflight_prepare
from xtts_finetune.stages.output import speak_on_unheard
from xtts_finetune.stages.stops import explained_stops
from xtts_finetune.training.interrupts import stop_signals


def main() -> None:
    """Run the stage that the arguments name, in the working folder."""
    # Threads that wait must not spin: on a busy machine steps took four times as long. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    speak_on_unheard()
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: what is half-written is removed
    workspace = Workspace.here()
    params = load_params(workspace.params)  # a wrong key is refused before torch and TTS load for ten seconds
    with explained_stops(workspace):
        _run(workspace, params, sys.argv[1:])


def _run(workspace: Workspace, params: Params, arguments: list[str]) -> None:
    match arguments:
        case ["prepare"]:
            preflight_prepare(workspace, params)  # likewise a malformed metadata.csv, and a disk that is too small
            from xtts_finetune.stages.prepare import prepare

            prepare(workspace, params)
        case ["train", phase] if phase in PHASES:
            preflight(workspace, params, phase)
            from xtts_finetune.stages.train import train

            train(workspace, params, phase)
        case ["evaluate"]:
            preflight_evaluate(workspace, params)
            from xtts_finetune.stages.evaluate import evaluate

            evaluate(workspace, params)
        case other:
            raise AssertionError(f"dvc.yaml names no such stage: {other}")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
