"""The experiments of DVC's queue that run now, each in a copy of the checkout.

As DVC writes them down (dvc/repo/experiments/executor/base.py: ExecutorInfo; dvc_task/proc/process.py: ProcessInfo).
"""

from pathlib import Path

from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import DVC_COPIES, Workspace
from xtts_finetune.dvcio.command import NEXT, is_python, running_stage

_RUNNING = 2  # TaskStatus


def running_experiments(workspace: Workspace) -> dict[str, str | None]:
    """By name the stage that each runs, or whose outs DVC stores; None: DVC is between two. Not what was killed."""
    found = dict[str, str | None]()
    for file in sorted(workspace.root.joinpath(*DVC_COPIES, "run").glob("*/*.run")):
        told, process = read_json_object(file), read_json_object(file.with_suffix(".json"))
        copy, pid = Path(str(told.get("root_dir"))), process.get("pid")
        is_running = told.get("status") == _RUNNING and process.get("returncode") is None and copy.is_dir()
        if is_running and isinstance(pid, int) and is_python(pid):
            stage = running_stage(Workspace(copy))
            found[str(told.get("name"))] = None if stage == NEXT else stage
    return found
