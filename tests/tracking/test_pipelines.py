"""The run that phases and evaluations of a pipeline come under."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import evaluate
from mlflow_server import MlflowServer, running
from runs import begin

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.backlog import deliver_backlog
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.outbox import Pipeline

PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
OURS = Pipeline("a" * 16, "main · lr 0.001", {"seed": "42"}, {"git_commit": "f00d"})
OTHER = replace(OURS, key="b" * 16, name="main · lr 0.01")
ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16
MEASURED = {"base/mel_ce": 7.0, "phase1/mel_ce": 4.0, "phase2/mel_ce": 3.5, "best/mel_ce": 3.5, "best/text_ce": 2.0}


def train(store: Any, workspace: Workspace, phase: Any, key: str, best: float, pipeline: Pipeline | None = OURS) -> str:
    """A phase from 7.0 to its best; the id of its run."""
    training = begin(store, workspace.root / "work" / key, key, pipeline=pipeline, phase=phase, target_mel_ce=2.5)
    with training.tracker as tracker:
        training.log(0, eval__mel_ce=7.0, eval__text_ce=6.0)
        training.log(8, eval__mel_ce=best, eval__text_ce=3.0)
        training.log(9, eval__mel_ce=best + 1, eval__text_ce=3.5)
    assert tracker.run_id
    return tracker.run_id


def bring(store: TrackingStore, workspace: Workspace, model: Path) -> int:
    """An evaluation, delivered; the version that it registered."""
    evaluate(workspace, model, 1_700_000_000_500, OURS, MEASURED)
    [done] = deliver_backlog(workspace, lambda: store)
    return done.version


def pipelines(store: TrackingStore) -> list[Any]:
    return list(store.client.search_runs([store.experiment_id], "tags.phase = 'pipeline'"))


def children(store: TrackingStore, parent: Any) -> dict[str, Any]:
    runs = store.client.search_runs([store.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")
    return {run.info.run_name: run for run in runs}


def test_names_are_no_longer_than_a_database_takes(store: TrackingStore, workspace: Workspace) -> None:
    """SQLite would take them, PostgreSQL and MySQL refuse."""
    long = replace(OURS, name="x" * 400)
    for key in (ONE, TWO):
        with begin(store, workspace.root / "work" / key, key, pipeline=long, phase="y" * 400).tracker:
            pass
    [parent] = pipelines(store)
    assert parent.info.run_name == "x" * 249 + "…"
    assert children(store, parent).keys() == {"y" * 249 + "…", "y" * 240 + "… · 222222"}


def test_a_pipeline_is_one_row_that_says_what_its_children_came_to(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    train(store, workspace, "phase1", ONE, 4.0)
    train(store, workspace, "phase2", TWO, 3.5)
    assert bring(store, workspace, model) == 1
    [parent] = pipelines(store)
    assert set(children(store, parent)) == {"phase1", "phase2", "evaluate"}
    assert parent.info.run_name == "main · lr 0.001"
    assert parent.data.metrics == MEASURED | {"phase1/text_ce": 3.0, "phase2/text_ce": 3.0}
    assert (parent.data.tags["best"], parent.data.tags["registered"]) == ("phase2", "1")
    assert (parent.data.params, parent.data.tags["git_commit"]) == ({"seed": "42"}, "f00d")
    assert "phase2 is best, eval Mel CE **3.500**; registered as version 1" in parent.data.tags[NOTE]
    assert "| base |&emsp;7.000 |" in parent.data.tags[NOTE]
    assert [given.dataset.name for given in parent.inputs.dataset_inputs] == ["data"]


def test_a_phases_page_says_in_words_what_it_came_to(store: TrackingStore, workspace: Workspace) -> None:
    run = store.client.get_run(train(store, workspace, "phase1", ONE, 4.0))
    assert "eval Mel CE 7.000 → **4.000**, best at step 8" in run.data.tags[NOTE]
    assert "target Mel CE: 2.5, 1.500 to go" in run.data.tags[NOTE]
    assert "`dvc repro` goes on with phase 2" in run.data.tags[NOTE]
    assert run.data.metrics["best/mel_ce"] == 4.0  # the newest of the curve is another


@pytest.mark.parametrize("order", itertools.permutations(["phase1", "phase2", "evaluate"]))
def test_in_whatever_order_they_are_delivered_it_ends_the_same(
    store: TrackingStore, workspace: Workspace, model: Path, order: tuple[str, ...]
) -> None:
    deliver: dict[str, Callable[[], object]] = {
        "phase1": lambda: train(store, workspace, "phase1", ONE, 4.0),
        "phase2": lambda: train(store, workspace, "phase2", TWO, 3.5),
        "evaluate": lambda: bring(store, workspace, model),
    }
    for name in order:
        deliver[name]()
    [parent] = pipelines(store)
    assert set(children(store, parent)) == {"phase1", "phase2", "evaluate"}
    assert parent.data.metrics == MEASURED | {"phase1/text_ce": 3.0, "phase2/text_ce": 3.0}


def test_it_runs_while_a_child_does_and_ends_with_the_last(store: TrackingStore, workspace: Workspace) -> None:
    train(store, workspace, "phase1", ONE, 4.0)
    [parent] = pipelines(store)
    assert parent.info.status == "FINISHED"
    second = begin(store, workspace.work("phase2"), TWO, pipeline=OURS, phase="phase2")
    assert pipelines(store)[0].info.status == "RUNNING"
    second.tracker.__exit__(ValueError, ValueError("bug"), None)
    [parent] = pipelines(store)
    last = store.client.get_run(second.tracker.run_id)
    assert (parent.info.status, parent.info.end_time) == ("FAILED", last.info.end_time)


def test_another_phase_2_over_the_same_phase_1_comes_under_it_and_has_a_name_of_its_own(
    store: TrackingStore, workspace: Workspace
) -> None:
    train(store, workspace, "phase1", ONE, 4.0)
    train(store, workspace, "phase2", TWO, 3.7)
    train(store, workspace, "phase2", THREE, 3.5)
    train(store, workspace, "phase1", "4" * 16, 4.0, OTHER)
    ours, other = sorted(pipelines(store), key=lambda run: str(run.data.tags["run_key"]))
    assert set(children(store, ours)) == {"phase1", "phase2", "phase2 · 333333"}
    assert set(children(store, other)) == {"phase1"}
    assert ours.data.metrics["phase2/mel_ce"] == 3.5


def test_two_that_deliver_at_once_make_one(workspace: Workspace, tracking: TrackingParams) -> None:
    start = threading.Barrier(4)

    def one(key: str) -> str:
        store = open_store(workspace, tracking)
        start.wait(60)
        return train(store, workspace, "phase2", key, 3.5)

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(one, [ONE, TWO, THREE, "4" * 16]))
    store = open_store(workspace, tracking)
    [parent] = pipelines(store)
    under = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"  # two that begin at once may have one name
    assert {run.info.run_id for run in store.client.search_runs([store.experiment_id], under)} == set(runs)
    assert parent.info.status == "FINISHED"


def test_of_two_that_a_lost_answer_has_made_one_stays_with_the_children_of_both(
    store: TrackingStore, workspace: Workspace
) -> None:
    first = train(store, workspace, "phase1", ONE, 4.0)
    tags = {"run_key": OURS.key, "workspace": store.workspace_id, "phase": "pipeline"}
    older = store.client.create_run(store.experiment_id, 1, tags, "main").info.run_id
    second = train(store, workspace, "phase2", TWO, 3.5)
    [parent] = pipelines(store)
    assert parent.info.run_id == older
    assert {run.info.run_id for run in children(store, parent).values()} == {first, second}


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_inputs", "set_terminated", "update_run", "set_tag"])
@pytest.mark.parametrize("lost", ["the request", "the answer"])
def test_whatever_call_fails_the_next_delivery_makes_up_for_it(
    store: TrackingStore, workspace: Workspace, model: Path, call: str, lost: str
) -> None:
    class Once:
        """The real client, whose call fails at first."""

        def __init__(self) -> None:
            self.failures = 1

        def __getattr__(self, name: str) -> Any:
            real = getattr(store.client, name)

            def failing(*arguments: Any, **named: Any) -> Any:
                if self.failures:
                    self.failures -= 1
                    if lost == "the answer":
                        real(*arguments, **named)
                    raise ConnectionError("unplugged")
                return real(*arguments, **named)

            return failing if name == call else real

    client: Any = Once()
    broken = replace(store, client=client)
    evaluate(workspace, model, 1_700_000_000_500, OURS, MEASURED)
    for _ in range(2):
        try:
            list(deliver_backlog(workspace, lambda: broken))
        except ConnectionError:
            continue
    [parent] = pipelines(store)
    assert set(children(store, parent)) == {"evaluate"}
    assert parent.data.metrics == MEASURED
    assert (parent.info.status, parent.data.tags["registered"]) == ("FINISHED", "1")
    assert parent.data.params == {"seed": "42"}


def test_what_a_user_wrote_stays(store: TrackingStore, workspace: Workspace) -> None:
    first = train(store, workspace, "phase1", ONE, 4.0)
    [parent] = pipelines(store)
    for run_id in first, parent.info.run_id:
        store.client.set_tag(run_id, NOTE, "the one with the new microphone")
    train(store, workspace, "phase1", ONE, 4.0)
    train(store, workspace, "phase2", TWO, 3.5)
    for run_id in first, parent.info.run_id:
        assert store.client.get_run(run_id).data.tags[NOTE] == "the one with the new microphone"
    assert pipelines(store)[0].data.metrics["phase2/mel_ce"] == 3.5


def test_another_clone_has_its_own(store: TrackingStore, workspace: Workspace) -> None:
    train(replace(store, artifacts=None), workspace, "phase1", ONE, 4.0)
    there = replace(store, artifacts=None, workspace_id="another")
    elsewhere = Workspace(workspace.root / "elsewhere")
    train(there, elsewhere, "phase1", ONE, 4.0)
    assert {run.data.tags["workspace"] for run in pipelines(store)} == {store.workspace_id, "another"}


def test_a_run_of_before_there_were_pipelines_stays_as_it_is(store: TrackingStore, workspace: Workspace) -> None:
    run = store.client.get_run(train(store, workspace, "phase1", ONE, 4.0, pipeline=None))
    assert PARENT not in run.data.tags
    assert pipelines(store) == []


@pytest.mark.slow
def test_on_a_server_that_was_away_all_come_under_one(
    workspace: Workspace, empty_server: MlflowServer, model: Path
) -> None:
    remote = TrackingParams(experiment="voices", uri=empty_server.uri, log_every_steps=1, flush_every_steps=1)

    def connect() -> TrackingStore:
        return open_store(workspace, remote)

    training = begin(connect, workspace.work("phase1"), ONE, uri=remote.uri, pipeline=OURS)
    with training.tracker:
        training.log(0, eval__mel_ce=7.0, eval__text_ce=6.0)
    evaluate(workspace, model, 1_700_000_000_500, OURS, MEASURED)
    with running(empty_server):
        store = connect()
        second = begin(connect, workspace.work("phase2"), TWO, uri=remote.uri, pipeline=OURS, phase="phase2")
        with second.tracker:
            second.log(8, eval__mel_ce=3.5, eval__text_ce=3.0)
        [done] = deliver_backlog(workspace, connect)
        again = begin(connect, workspace.work("phase1"), ONE, uri=remote.uri, pipeline=OURS)
        again.tracker.finish()
        [parent] = pipelines(store)
        assert set(children(store, parent)) == {"phase1", "phase2", "evaluate"}
        assert parent.data.tags["registered"] == str(done.version)
