"""Clones of the project that share one MLflow server: each has its own runs, though their work is the same."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from runs import KEY, begin, history, line

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TrackingStore, open_store


@pytest.fixture
def shared(workspace: Workspace) -> str:
    """As a server: a store that is nobody's own."""
    return f"sqlite:///{workspace.tracking_db}"


def clone(root: Path, tracking: TrackingParams, uri: str) -> TrackingStore:
    root.mkdir(exist_ok=True)
    return open_store(Workspace(root), tracking.model_copy(update={"uri": uri}))


def test_each_clone_has_its_own_run_and_goes_on_with_it(tracking: TrackingParams, shared: str, tmp_path: Path) -> None:
    found = []
    for name in "one", "two":
        store = clone(tmp_path / name, tracking, shared)
        training = begin(store, tmp_path / name / "work" / "phase1", uri=shared)
        training.line(6)
        training.tracker.finish()
        assert history(store, training.tracker.run_id) == line(6)
        found.append(training.tracker.run_id)
    assert found[0] != found[1]
    moved = (tmp_path / "one").rename(tmp_path / "moved")
    again = clone(moved, tracking, shared)
    training = begin(again, moved / "work" / "phase1", uri=shared)
    training.line(9, first=7)
    training.tracker.finish()
    assert training.tracker.run_id == found[0]
    assert history(again, found[0]) == line(9)
    assert history(again, found[1]) == line(6)


@pytest.mark.parametrize("own", [True, False])
def test_a_run_of_before_there_was_an_id_is_that_of_its_own_database(
    store: TrackingStore, workspace: Workspace, own: bool
) -> None:
    before = store.client.create_run(store.experiment_id, tags={"run_key": KEY}).info.run_id
    training = begin(store if own else replace(store, artifacts=None), workspace.work("phase1"))
    training.tracker.finish()
    assert (training.tracker.run_id == before) == own


def test_a_workspace_has_one_id_whoever_asks_first(tracking: TrackingParams, shared: str, tmp_path: Path) -> None:
    clone(tmp_path / "first", tracking, shared)  # makes the experiment
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: clone(tmp_path / "one", tracking, shared), range(4)))
    assert len({store.workspace_id for store in opened}) == 1
    assert clone(tmp_path / "two", tracking, shared).workspace_id != opened[0].workspace_id
