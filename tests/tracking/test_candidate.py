"""Which version is the candidate: that of the latest evaluation, whenever and in whatever order they are delivered."""

import json
from pathlib import Path

import pytest
from evaluations import evaluate
from small_runs import EVALUATE, Small, Stage

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.backlog import deliver_backlog
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.registry import versions


def evaluate_two(workspace: Workspace, model: Path, *created: int) -> list[str]:
    """Put two evaluations, the second of other weights; their SHA-256."""
    found = []
    for number, time in enumerate(created):
        (model / "model.safetensors").unlink()  # published anew
        (model / "model.safetensors").write_bytes(b"weights %d" % number)
        found.append(evaluate(workspace, model, time))
    return found


def candidate(store: TrackingStore) -> str:
    [version] = [each for each in versions(store, "voice") if "candidate" in each.aliases]
    return version.tags["model_sha256"]


def test_the_later_of_two_takes_it_over(store: TrackingStore, workspace: Workspace, model: Path) -> None:
    _, latest = evaluate_two(workspace, model, 2, 3)
    assert [done.version for done in deliver_backlog(workspace, lambda: store)] == [1, 2]
    assert candidate(store) == latest


def test_an_older_one_that_is_delivered_after_it_changes_nothing(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    older, latest = evaluate_two(workspace, model, 2, 3)
    weights = workspace.undelivered / older[:16] / "bundle" / "model.safetensors"
    weights.rename(workspace.root / "aside")
    with pytest.raises(UserError, match="is missing"):
        list(deliver_backlog(workspace, lambda: store))
    assert candidate(store) == latest
    (workspace.root / "aside").rename(weights)
    [done] = deliver_backlog(workspace, lambda: store)
    assert done.note and done.created
    assert str(done) == f"registered: voice version 2\n{as_typed(done.note)}"
    assert candidate(store) == latest
    assert json.loads(workspace.registration.read_text())["version"] == 1


def test_a_clock_that_was_set_back_changes_nothing(store: TrackingStore, workspace: Workspace, model: Path) -> None:
    _, latest = evaluate_two(workspace, model, 5, 2)
    assert len(list(deliver_backlog(workspace, lambda: store))) == 2
    assert candidate(store) == latest
    told = json.loads(workspace.registration.read_text())
    assert (told["model_sha256"], told["aliases"]) == (latest, ["candidate", "champion"])


def test_the_first_is_it_whatever_is_said_of_others(store: TrackingStore, workspace: Workspace, model: Path) -> None:
    only = evaluate(workspace, model, created=2)
    workspace.registration.unlink()
    assert [done.aliases for done in deliver_backlog(workspace, lambda: store)] == [["candidate", "champion"]]
    assert candidate(store) == only


@pytest.mark.slow
def test_an_older_one_that_mlflow_refuses_keeps_no_evaluation_from_its_end(
    before: dict[Stage, Small], model: Path, tmp_path: Path
) -> None:
    small = before[EVALUATE].copy(tmp_path / "small")
    workspace = Workspace(small.root)
    older = workspace.undelivered / evaluate(workspace, model, created=2)[:16]
    record = json.loads((older / "delivery.json").read_text())
    record["order"]["model_name"] = "voices/anna"
    (older / "delivery.json").write_text(json.dumps(record))
    said = small.run(*EVALUATE)
    assert as_typed("an earlier run still waits for MLflow (xtts-finetune sync): Invalid model name") in said
    assert "Traceback" not in said
    registered = json.loads(workspace.registration.read_text())
    assert registered["aliases"] == ["candidate", "champion"]
    assert [folder.name for folder in workspace.undelivered.iterdir()] == [older.name]
