"""`python -m xtts_finetune.stages check | prepare | train phase1 | train phase2 | evaluate`, by scripts/stage."""

import sys

from xtts_finetune.core.deadline import time_is_up
from xtts_finetune.core.errors import Stopped, exit_code_of
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.preflight import preflight, preflight_evaluate, preflight_prepare
from xtts_finetune.stages.check import check
from xtts_finetune.stages.process import begin_process
from xtts_finetune.stages.stops import explained_stops


def main() -> None:
    """Run the stage that the arguments name, in the working folder."""
    begin_process()
    workspace = Workspace.here()
    params = load_params(workspace.params)  # a wrong key is refused before torch and TTS load
    with explained_stops(workspace):
        if time_is_up():
            raise Stopped(f"the time that --for gave was up before {sys.argv[1]} began; run dvc repro again to go on")
        _run(workspace, params, sys.argv[1:])


def _run(workspace: Workspace, params: Params, arguments: list[str]) -> None:
    match arguments:
        case ["check"]:
            check(workspace, params)
        case ["prepare"]:
            preflight_prepare(workspace, params)
            from xtts_finetune.stages.prepare import prepare

            prepare(workspace, params)
        case ["train", phase] if phase in PHASES:
            preflight(workspace, params, phase)
            if params.launch.processes * params.launch.nodes > 1:
                from xtts_finetune.training.launch import lead

                sys.exit(lead(workspace, params, phase))
            from xtts_finetune.stages.train import train
            from xtts_finetune.training.team import Team

            train(workspace, params, phase, Team.alone())
        case ["evaluate"]:
            preflight_evaluate(workspace, params)
            from xtts_finetune.stages.evaluate import evaluate

            evaluate(workspace, params)
        case other:
            raise AssertionError(f"dvc.yaml names no such stage: {other}")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
