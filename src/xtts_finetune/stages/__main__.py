"""`python -m xtts_finetune.stages check | prepare | train phase1 | train phase2 | evaluate`, by scripts/stage."""

import os
import sys
from pathlib import Path

from xtts_finetune.core.deadline import time_is_up
from xtts_finetune.core.errors import Problem, Stopped, UserError, exit_code_of
from xtts_finetune.core.layout import DVC_EXPERIMENT, DVC_ROOT, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.preflight import preflight, preflight_evaluate, preflight_prepare
from xtts_finetune.report.gathering import Stage
from xtts_finetune.stages.check import check
from xtts_finetune.stages.process import begin_process
from xtts_finetune.stages.stops import explained_stops, told


def main() -> None:
    """Run the stage that the arguments name, in the working folder."""
    begin_process()
    workspace = Workspace.here()
    _refuse_unknown_copy(workspace)
    params = load_params(workspace.params)  # a wrong key is refused before torch and TTS load
    stage = _stage(sys.argv[1:])
    with told(workspace, params, stage), explained_stops(workspace):
        if time_is_up():
            raise Stopped(f"the time that --for gave was up before {stage} began; run dvc repro again to go on")
        _run(workspace, params, stage)


def _refuse_unknown_copy(workspace: Workspace) -> None:
    """DVC says whose copy it runs an experiment in: all that is kept elsewhere would go with a copy not known as one.

    Raises:
        UserError: so it is, as where .dvc/tmp is a link.
    """
    home = Path(os.environ.get(DVC_ROOT, workspace.root))
    if not workspace.is_copy and os.environ.get(DVC_EXPERIMENT) and home.resolve() != workspace.root.resolve():
        what = f"is a copy of {home} that DVC made for an experiment, and does not lie below it"
        remedy = "let .dvc and .dvc/tmp be folders there, no links; or run it there: dvc exp run without --queue"
        raise UserError("this experiment would be lost", [Problem(str(workspace.root), what, remedy)])


def _stage(arguments: list[str]) -> Stage:
    match arguments:
        case ["train", "phase1" | "phase2" as phase]:
            return phase
        case ["check" | "prepare" | "evaluate" as stage]:
            return stage
        case other:
            raise AssertionError(f"dvc.yaml names no such stage: {other}")


def _run(workspace: Workspace, params: Params, stage: Stage) -> None:
    match stage:
        case "check":
            check(workspace, params)
        case "prepare":
            preflight_prepare(workspace, params)
            from xtts_finetune.stages.prepare import prepare

            prepare(workspace, params)
        case "evaluate":
            preflight_evaluate(workspace, params)
            from xtts_finetune.stages.evaluate import evaluate

            evaluate(workspace, params)
        case phase:
            preflight(workspace, params, phase)
            if params.launch.processes * params.launch.nodes > 1:
                from xtts_finetune.training.launch import lead

                if code := lead(workspace, params, phase):
                    sys.exit(code)
                return
            from xtts_finetune.stages.train import train
            from xtts_finetune.training.team import Team

            train(workspace, params, phase, Team.alone())


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
