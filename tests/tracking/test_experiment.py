"""The experiment's page in MLflow."""

import json

import pytest
from runs import begin

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import TrackingStore

VIEW = "mlflow.sharedViewState."
NOTE = "mlflow.note.content"


def tags(store: TrackingStore) -> dict[str, str]:
    return dict(store.client.get_experiment(store.experiment_id).tags)


def test_the_page_offers_views_with_the_columns_that_matter(store: TrackingStore, workspace: Workspace) -> None:
    begin(store, workspace.work("phase1")).tracker.finish()
    known = tags(store)
    for name in "pipelines", "phases", "tree":
        view = json.loads(known[f"{VIEW}{name}"])
        assert isinstance(view["name"], str) and isinstance(view["createdAt"], int)  # as MLflow's page demands
        state = json.loads(view["state"])
        assert "metrics.`best/mel_ce`" in state["selectedColumns"]
        store.client.search_runs([store.experiment_id], state["searchFilter"])  # it is one
        assert f"viewStateShareKey={name})" in known[NOTE]


@pytest.mark.parametrize("name", [NOTE, f"{VIEW}pipelines"])
def test_what_a_user_made_of_it_stays(store: TrackingStore, workspace: Workspace, name: str) -> None:
    store.client.set_experiment_tag(store.experiment_id, name, "mine")
    begin(store, workspace.work("phase1")).tracker.finish()
    assert tags(store)[name] == "mine"
    assert f"{VIEW}phases" in tags(store)
