"""The MLflow run of a stage: its name, its data set, and what its tags say of code, data and split."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, sha256_json
from xtts_finetune.core.layout import SYSTEM, PhaseName, Workspace
from xtts_finetune.core.params import Params, TrackingParams
from xtts_finetune.tracking.connection import TrackingStore, is_local, load_mlflow, open_store
from xtts_finetune.tracking.curve import Row, read_rows
from xtts_finetune.tracking.environment import changed_params, environment_tags, line_of_work, source_tags
from xtts_finetune.tracking.notes import NOTE, evaluation_note, phase_note, rounded
from xtts_finetune.tracking.outbox import BEST, RUNNING, Outbox, Pipeline, TrackedRun, new_tracked_run, now
from xtts_finetune.tracking.pipelines import PIPELINE
from xtts_finetune.tracking.registry import DATA_DESCRIPTION_TAG, DATA_TAG
from xtts_finetune.tracking.run_tracker import RunTracker

CODE = "code"  # the tag with the digest of the sources that shape the weights
_COMMIT = "git_commit"
_SHAPES_PHASE1 = ("seed", "base", "prepare", "vocabulary", "train_phase1")  # sections of params.yaml
_OF_A_PIPELINE = ("git_commit", "git_dirty", DATA_TAG, DATA_DESCRIPTION_TAG, "split_digest")  # beside MLflow's own
_OF_THE_COMMIT = (_COMMIT, "git_dirty", "mlflow.source.git.commit")


def stage_tags(workspace: Workspace, stage: str, data_md5: str) -> dict[str, str]:
    """What a stage's result comes from: code and software, data, split."""
    dataset = read_json(workspace.reports / "dataset.json")
    clips = dataset.get("clips")
    described = f"{clips['train']} clips to train on, {clips['eval']} to evaluate" if clips else "unknown"
    return {
        **environment_tags(workspace.root),
        **source_tags(workspace.root, stage),
        "phase": stage,
        DATA_TAG: data_md5,
        DATA_DESCRIPTION_TAG: described,
        "split_digest": dataset["split_digest"],
    }


def pipeline_of(workspace: Workspace, params: Params, phase1_key: str, tags: Mapping[str, str]) -> Pipeline:
    """The run that those over a run of phase 1 come under, with what shaped that one.

    Args:
        phase1_key: of phase 1's run: a pipeline whose phase 2 has other settings is the same.
        tags: of the stage, of `stage_tags`.
    """
    root, first = workspace.root, params.train_phase1
    name = [line_of_work(root), f"lr {first.lr}", *changed_params(root, *_SHAPES_PHASE1)]
    settings = {"seed": params.seed, "base": params.base}
    settings |= {f"train_phase1.{param}": value for param, value in first.model_dump().items()}
    kept = {tag: text for tag, text in tags.items() if tag.startswith("mlflow.") or tag in _OF_A_PIPELINE}
    texts = {param: str(value) for param, value in settings.items()}
    return Pipeline(sha256_json([PIPELINE, phase1_key])[:16], " · ".join(name), texts, kept)


def phase_run(
    workspace: Workspace, key: str, params: Mapping[str, object], tags: Mapping[str, str], pipeline: Pipeline
) -> TrackedRun:
    """The run of the phase whose work is `key`; `tags` are those of `stage_tags`."""
    phase = tags["phase"]
    name = [phase, f"lr {params['lr']}", *changed_params(workspace.root, f"train_{phase}")]
    texts = {param: str(value) for param, value in params.items()}
    note = {NOTE: phase_note(RUNNING, texts, tags, [])}
    return _run(workspace, key, " · ".join(name), params, {**tags, **note}, pipeline)


def evaluation_run(
    workspace: Workspace,
    key: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    pipeline: Pipeline,
    figures: Mapping[str, Mapping[str, float]],
    best: PhaseName,
    lr: float,
) -> TrackedRun:
    """The run of an evaluation, which has ended.

    Args:
        figures: of `base` and the phases, `mel_ce` and `text_ce` in nats per token.
        lr: phase 2's, by which evaluations of one pipeline are told apart.
    """
    named = {f"{model}/{name}": of[name] for model, of in figures.items() for name in ("mel_ce", "text_ce")}
    named |= {f"{BEST}/{name}": figures[best][name] for name in ("mel_ce", "text_ce")}
    note = evaluation_note(best, figures, tags, str(params["base"]))
    run = _run(workspace, key, f"evaluate · lr {lr}", params, {**tags, "best": best, NOTE: note}, pipeline)
    return replace(run, status="FINISHED", ended=now(), figures=rounded(named))


def _run(
    workspace: Workspace,
    key: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    pipeline: Pipeline,
) -> TrackedRun:
    run = new_tracked_run(key, name, params, tags, ("data", workspace.data.name, tags["data_md5"]))
    return replace(run, pipeline=pipeline)


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
    outbox = Outbox(folder, _continued(folder, record, step), lambda: [*rows(), *read_rows(folder / SYSTEM)])
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
    so_far = replace(record, run_id=before.run_id, delivered=before.delivered, heard=before.heard)
    return replace(so_far, created=before.created, tags=tags)
