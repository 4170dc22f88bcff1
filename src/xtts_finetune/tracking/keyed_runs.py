"""Runs in MLflow, found by the work that they are of."""

from typing import TYPE_CHECKING

from xtts_finetune.tracking.connection import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_KEY = "run_key"  # the tag that names a run's unit of work
NAME_CHARACTERS = 250  # of a run
WORKSPACE = "workspace"  # and the one that names whose: clones that share a server may do the same work


def cut(text: str, characters: int = NAME_CHARACTERS) -> str:
    """So much of a text as a column of MLflow's databases takes: SQLite takes more, PostgreSQL does not."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def key_tags(store: TrackingStore, key: str) -> dict[str, str]:
    """By which the run of a key will be found again."""
    return {RUN_KEY: key, WORKSPACE: store.workspace_id}


def runs_of(store: TrackingStore, key: str) -> list["Run"]:
    """The runs of a key and this workspace: one, or the older first, should a lost answer have made two.

    In the workspace's own database all runs are its own: those of before the workspace had an id, too.
    """
    tags = key_tags(store, key)
    asked = (RUN_KEY, WORKSPACE) if store.artifacts is None else (RUN_KEY,)
    query = " AND ".join(f"tags.{name} = '{tags[name]}'" for name in asked)
    return list(store.client.search_runs([store.experiment_id], query, order_by=["attributes.start_time"]))
