"""The MLflow run of a stage: its name, its data set, and what its tags say of code, data and split."""

from collections.abc import Mapping

from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import Store
from xtts_finetune.tracking.delivery import RunTracker, environment_tags


def stage_tags(workspace: Workspace, stage: str, data_md5: str) -> dict[str, str]:
    """What a stage's result comes from: code and software, data, split."""
    return {
        **environment_tags(workspace.root),
        "phase": stage,
        "data_md5": data_md5,
        "split_digest": read_json(workspace.reports / "dataset.json")["split_digest"],
    }


def start_stage_run(
    store: Store,
    workspace: Workspace,
    key: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    flush_every_steps: int,
) -> RunTracker:
    """Continue or create the run of the work `key`; `tags` are those of `stage_tags`."""
    return RunTracker.start(
        store,
        name=f"{tags['phase']}-{key[:6]}",
        key=key,
        params=params,
        tags=tags,
        dataset=("data", workspace.data.name, tags["data_md5"]),
        flush_every_steps=flush_every_steps,
    )
