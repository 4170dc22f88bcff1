"""An experiment of DVC's queue, which runs in a copy, and the checkout that it was queued in: what each has."""

from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import evaluate
from making.done_runs import summary
from runs import KEY, begin, through, unplugged

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.backlog import Files, deliver_backlog, put, set_aside
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.outbox import Outbox, ended_outboxes, ordered
from xtts_finetune.tracking.registry import versions
from xtts_finetune.tracking.waiting import waiting


@pytest.fixture(params=["tmpabc", "standalone/tmpabc"])
def copy(workspace: Workspace, request: pytest.FixtureRequest) -> Workspace:
    root = workspace.root / ".dvc" / "tmp" / "exps" / request.param
    (root / "reports" / "samples").mkdir(parents=True)
    return Workspace(root)


def test_it_is_known_by_where_it_lies(workspace: Workspace, copy: Workspace) -> None:
    assert (copy.is_copy, copy.home, workspace.is_copy) == (True, workspace, False)
    assert workspace.copies() == [copy.root]
    ours, its = ({at.work(phase) for phase in PHASES} | {at.models_lock, at.stopped} for at in (workspace, copy))
    assert not ours & its
    assert all(place.is_relative_to(workspace.root / "work" / "queue") for place in its), "DVC deletes the copy"
    assert workspace.queue.work("phase1") == copy.work("phase1")
    for shared in ("tracking_db", "artifacts", "id_file", "pipelines_lock", "pace"):
        assert getattr(copy, shared) == getattr(workspace, shared)
    assert copy.parked_work("phase1", KEY) == workspace.parked_work("phase1", KEY)


def test_its_runs_are_in_the_checkout_s_mlflow(
    workspace: Workspace, copy: Workspace, store: TrackingStore, tracking: TrackingParams
) -> None:
    its = open_store(copy, tracking)
    assert (its.uri, its.artifacts, its.workspace_id, its.lock) == (
        store.uri,
        store.artifacts,
        store.workspace_id,
        store.lock,
    )
    assert not (copy.root / "mlruns").exists()


def test_an_evaluation_of_the_same_weights_takes_no_order_away(
    workspace: Workspace, copy: Workspace, store: TrackingStore, model: Path
) -> None:
    """Both wait for a server: the checkout's with a model to be registered, the experiment's, of its key, without."""
    sha256 = evaluate(workspace, model, created=2)
    [place] = ended_outboxes(workspace)
    record = replace(Outbox.read(place).record, order=None)
    shown = Files([copy.reports / "samples"], lambda folder: pytest.fail("nothing is to be registered"), SERVING_CODE)
    put(copy, record, [], shown)
    assert ordered(workspace) == {sha256}
    assert read_json(copy.registration) == {"in_queue": True}
    assert list(deliver_backlog(copy, lambda: store)) == [], "it delivers what is its own"
    assert ordered(workspace) == {sha256}
    assert [done.version for done in deliver_backlog(workspace, lambda: store)] == [1]
    assert len(versions(store, "voice")) == 1


def test_what_it_left_is_delivered_by_the_checkout(workspace: Workspace, copy: Workspace, store: TrackingStore) -> None:
    """Its own stages may never run again."""
    training = begin(through(store, unplugged), copy.work("phase1"), key=KEY)
    training.line(6)
    training.tracker.finish()
    write_json(copy.work("phase1") / "DONE", summary())
    set_aside(copy)
    assert [run.points for run in waiting(workspace)] == [6]
    assert list(deliver_backlog(workspace, lambda: store)) == []
    assert waiting(workspace) == []
    assert store.client.get_run(training.tracker.run_id).info.status == "FINISHED"
