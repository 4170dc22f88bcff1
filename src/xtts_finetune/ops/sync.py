"""`xtts-finetune sync`: bring to MLflow what it has not got yet."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams, load_params
from xtts_finetune.dvcio.outs import name_as_it_is
from xtts_finetune.tracking.backlog import bring, deliver_backlog
from xtts_finetune.tracking.connection import TrackingStore, open_store, reason
from xtts_finetune.tracking.outbox import Outbox, ordered, passed_over, running_outboxes
from xtts_finetune.tracking.waiting import Waiting, damaged, waiting


def sync_lines(workspace: Workspace) -> Iterator[str]:
    """Deliver all that waits; a line for each run.

    Raises:
        UserError: MLflow does not answer or refuses, or a record is damaged; the rest waits on. Or a model waits by
            reports/registration.json that is not there any more.
    """
    tracking = load_params(workspace.params).tracking
    if waiting(workspace) or damaged(workspace):
        yield from _bring_all(workspace, tracking)
    else:
        yield "nothing waits for MLflow"
    _require_what_is_pending(workspace)


def _bring_all(workspace: Workspace, tracking: TrackingParams) -> Iterator[str]:
    """A run that cannot be delivered keeps none of the others back.

    Raises:
        UserError: the first of what went wrong.
    """
    before, failures = waiting(workspace), list[Exception]()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")  # of a model's upload, file by file
    store = open_store(workspace, tracking)
    for folder in Bar(list(_running(workspace)), desc="curves", unit="run", leave=False):
        try:
            _bring(folder, store)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
    try:
        for registered in deliver_backlog(workspace, lambda: store):
            yield str(registered)
            yield from _known_to_dvc(workspace)
    except Exception as error:  # noqa: BLE001 - raised below
        failures.append(error)
    still = {run.key for run in waiting(workspace)}  # a live trainer's own
    yield from (_line(run) for run in before if run.key not in still)
    if failures:
        first = failures[0]
        raise first if isinstance(first, UserError) else _refused(tracking, first)


def _known_to_dvc(workspace: Workspace) -> Iterator[str]:
    """Have dvc.lock name the receipt as it is now; a line where that cannot be."""
    try:
        name_as_it_is(workspace, workspace.registration)
    except UserError as error:
        yield f"dvc.lock does not know of it ({error.problems[0].what}): the next dvc repro evaluates once more"


def _require_what_is_pending(workspace: Workspace) -> None:
    """Refuse to be done while a model is to be registered whose folder somebody deleted."""
    file = workspace.registration
    receipt = read_json(file) if file.exists() else {}
    if receipt.get("pending") and receipt["model_sha256"] not in ordered(workspace):
        what = "says that a model waits to be registered, but its folder in work/undelivered/ is gone"
        raise UserError("a model is not registered", [Problem(str(file), what, "dvc repro -s -f evaluate")])


def _running(workspace: Workspace) -> Iterator[Path]:
    """Unfinished runs, without those whose trainer is at work: it delivers by itself."""
    live = trained_now(workspace)
    for phase, folder in running_outboxes(workspace):
        if phase not in live and folder == workspace.work(phase):
            yield folder


def _bring(folder: Path, store: TrackingStore) -> None:
    try:
        outbox = Outbox.read(folder)
    except UserError:
        print(passed_over(folder), "; it is made anew when the run goes on", sep="", file=sys.stderr)
        return
    if not outbox.is_delivered:
        bring(outbox, lambda: store)


def _line(run: Waiting) -> str:
    return f"{run.name}: {f'{run.points} points' if run.points else 'tags and status'} delivered"


def _refused(tracking: TrackingParams, error: Exception) -> UserError:
    where = f"params.yaml: tracking.uri = {tracking.uri}"
    remedy = "see whether the server runs, then: xtts-finetune sync. What it took is not sent again"
    return UserError("not everything is delivered", [Problem(where, reason(error), remedy)])
