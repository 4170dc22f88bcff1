"""The MLflow run of a stage: its name, its data set, and what its tags say of code, data and split."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TrackingStore, is_local, load_mlflow, open_store
from xtts_finetune.tracking.curve import Row
from xtts_finetune.tracking.environment import environment_tags
from xtts_finetune.tracking.outbox import Outbox, TrackedRun, new_tracked_run
from xtts_finetune.tracking.registry import DATA_DESCRIPTION_TAG, DATA_TAG
from xtts_finetune.tracking.run_tracker import RunTracker

CODE = "code"  # the tag with the digest of the sources that shape the weights
_COMMIT = "git_commit"
_OF_THE_COMMIT = (_COMMIT, "git_dirty", "mlflow.source.git.commit")


def stage_tags(workspace: Workspace, stage: str, data_md5: str) -> dict[str, str]:
    """What a stage's result comes from: code and software, data, split."""
    dataset = read_json(workspace.reports / "dataset.json")
    clips = dataset.get("clips")
    described = f"{clips['train']} clips to train on, {clips['eval']} to evaluate" if clips else "unknown"
    return {
        **environment_tags(workspace.root),
        "phase": stage,
        DATA_TAG: data_md5,
        DATA_DESCRIPTION_TAG: described,
        "split_digest": dataset["split_digest"],
    }


def stage_run(workspace: Workspace, key: str, params: Mapping[str, object], tags: Mapping[str, str]) -> TrackedRun:
    """The run of the work `key`; `tags` are those of `stage_tags`."""
    lr = [f"lr {params['lr']}"] if "lr" in params else []
    name = " · ".join([tags["phase"], *lr, key[:6]])
    return new_tracked_run(key, name, params, tags, ("data", workspace.data.name, tags["data_md5"]))


def track(
    connect: Callable[[], TrackingStore],
    tracking: TrackingParams,
    folder: Path,
    record: TrackedRun,
    rows: Callable[[], list[Row]],
    step: int,
) -> RunTracker:
    """Continue or begin the run of a phase whose curve lies in `folder`.

    Args:
        connect: as `connection` gives it.
        rows: of the curve, as it stands now.
        step: where the phase goes on, for the tag that tells of another commit.

    Raises:
        MlflowException: the workspace's own database refuses.
    """
    outbox = Outbox(folder, _continued(folder, record, step), rows)
    return RunTracker.start(outbox, connect, is_local(tracking), tracking.flush_every_steps)


def connection(workspace: Workspace, tracking: TrackingParams) -> Callable[[], TrackingStore]:
    """How to reach the store: the own database now, a server when it is needed.

    Raises:
        UserError: the own database is damaged or of another schema.
    """
    if is_local(tracking):
        store = open_store(workspace, tracking)
        return lambda: store
    load_mlflow()  # not on another thread
    return lambda: open_store(workspace, tracking)


def from_step(tag: str, step: object) -> str:
    """The tag that says what it was from a step on, where a run went on under newer code."""
    return f"{tag}_from_step_{step}"


def _continued(folder: Path, record: TrackedRun, step: int) -> TrackedRun:
    """The record, as what it is if the folder has it already: begun then, and delivered so far."""
    before = None
    with suppress(UserError, FileNotFoundError):  # a damaged one is made anew: MLflow itself knows the rest
        before = Outbox.read(folder).record
    if before is None or before.key != record.key:
        return record
    earlier = {name: text for name, text in before.tags.items() if from_step("", "") in name}
    known = {before.tags.get(_COMMIT), *(text for name, text in earlier.items() if name.startswith(_COMMIT))}
    commit = record.tags.get(_COMMIT)
    newer = {from_step(_COMMIT, step): commit} if commit and commit not in known else {}
    first = {name: before.tags[name] for name in _OF_THE_COMMIT if name in before.tags}
    tags = {**record.tags, **earlier, **newer, **first}
    return replace(record, created=before.created, run_id=before.run_id, delivered=before.delivered, tags=tags)
