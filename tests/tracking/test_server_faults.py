"""Stages against a real MLflow server that is down or hangs, at the start, in the middle or at the end of a phase."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import MlflowServer, free_port
from small_runs import EVALUATE, METRICS, PHASE1, PHASE2, STAGES, Before, Points, Reference, Small
from standstill import wait_until_stopped

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TIMEOUT, TrackingStore, open_store
from xtts_finetune.tracking.registry import versions
from xtts_finetune.tracking.waiting import waiting

pytestmark = pytest.mark.slow
MODEL = "voice of a server"
IMPATIENT = {TIMEOUT: "3"}  # seconds that a stage waits for a server that hangs: a user's own setting


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def small(before: Before, server: MlflowServer, tmp_path: Path) -> Small:
    """Nothing trained yet, and an experiment and a model of its own on the server."""
    server.recover()
    small = before[PHASE1].copy(tmp_path / "small")

    def change(params: dict[str, Any]) -> None:
        params["tracking"] |= {"uri": server.uri, "experiment": tmp_path.name}
        params["registry"] |= {"model_name": f"{MODEL} {tmp_path.name}"}

    small.change_params(change)
    return small


def store_of(small: Small, server: MlflowServer) -> TrackingStore:
    tracking = TrackingParams(experiment=small.root.parent.name, uri=server.uri, log_every_steps=1, flush_every_steps=1)
    return open_store(Workspace(small.root), tracking)


def points(store: TrackingStore, stage: str) -> Points:
    """Of the one run that a stage has, which must have ended well."""
    [run] = store.client.search_runs([store.experiment_id], f"tags.phase = '{stage}'")
    assert run.info.status == "FINISHED"
    by_metric: Points = defaultdict(list)
    for name in run.data.metrics:
        history = store.client.get_metric_history(run.info.run_id, name)
        by_metric[name] = sorted((point.step, point.value) for point in history)
    return by_metric


def check_all_delivered(small: Small, server: MlflowServer, reference: Reference) -> None:
    store = store_of(small, server)
    assert waiting(Workspace(small.root)) == []
    for stage in ("phase1", "phase2", "evaluate"):
        expected, delivered = reference.whole.points(stage), points(store, stage)
        for metric in METRICS:
            assert delivered.get(metric) == expected.get(metric), (stage, metric)
    [version] = versions(store, f"{MODEL} {small.root.parent.name}")
    registration = json.loads((small.root / "reports" / "registration.json").read_text())
    assert registration["version"] == version.version == 1
    assert registration["aliases"] == ["candidate", "champion"]
    assert registration["model_sha256"] == version.tags["model_sha256"]
    assert not (small.root / "work" / "undelivered").exists() or not any(
        (small.root / "work" / "undelivered").iterdir()
    )


# The place in the stage where the fault comes; None: before it starts.
MOMENTS = {"start": None, "middle": "step-00000003#1", "end": "step-00000006#1"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", [MlflowServer.kill, MlflowServer.hang], ids=["down", "hangs"])
def test_a_server_that_fails_stops_nothing_and_loses_no_point(
    small: Small,
    server: MlflowServer,
    reference: Reference,
    fault: Callable[[MlflowServer], None],
    moment: str,
) -> None:
    """What is outstanding is delivered by the stages after."""
    place, impatient = MOMENTS[moment], replace(small, environment=IMPATIENT)
    if place is None:
        fault(server)
        fork = impatient.start(*PHASE1)
    else:
        fork = impatient.start(*PHASE1, at={place: "SIGSTOP"})
        wait_until_stopped(fork.pid)
        fault(server)
        fork.kill(signal.SIGCONT)
    assert fork.wait() == 0, fork.said
    assert "nothing is lost: they wait in work/" in fork.said
    [left] = waiting(Workspace(small.root))
    assert left.points > 0
    assert small.results("phase1") == reference.whole.results("phase1")
    server.recover()
    small.run(*PHASE2)
    small.run(*EVALUATE)
    check_all_delivered(small, server, reference)


@pytest.mark.parametrize("fault", [MlflowServer.kill, MlflowServer.hang], ids=["down", "hangs"])
def test_an_evaluation_without_its_server_is_registered_by_sync(
    small: Small, server: MlflowServer, reference: Reference, fault: Callable[[MlflowServer], None]
) -> None:
    """All of it was trained and evaluated without a server."""
    fault(server)
    for stage in STAGES:
        replace(small, environment=IMPATIENT).run(*stage)
    registration = json.loads((small.root / "reports" / "registration.json").read_text())
    assert registration["pending"] is True
    assert small.evaluation() == reference.whole.evaluation()
    kept = list((small.root / "work" / "undelivered").glob("*/bundle/model.safetensors"))
    best = json.loads((small.root / "reports" / "evaluation.json").read_text())["best"]
    assert [file.samefile(small.root / "models" / best / "model.safetensors") for file in kept] == [True]
    assert {run.registration for run in waiting(Workspace(small.root))} == {True, False}
    server.recover()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    command = [sys.executable, "-m", "xtts_finetune.cli", "sync"]
    done = subprocess.run(command, cwd=small.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "registered: voice of a server" in done.stdout
    check_all_delivered(small, server, reference)
    again = subprocess.run(command, cwd=small.root, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == "nothing waits for MLflow\n"
