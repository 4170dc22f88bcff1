"""Against a real MLflow server on loopback, which keeps the artifacts itself."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import begin, history, line

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import artifact_folder, find_champion, register_best


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        while not answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=120) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(
    tmp_path: Path,
    empty_database: Path,
    model: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    folder, port = tmp_path / "server", free_port
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    remote = TrackingParams(experiment="voices", uri=f"http://127.0.0.1:{port}", flush_every_steps=1)
    with server(folder, port):
        store = open_store(Workspace(tmp_path), remote)
        training = begin(lambda: store, tmp_path / "work", flush_every_steps=1, uri=remote.uri)
        training.line(1)
        while not training.tracker.run_id:
            time.sleep(0.1)
    training.line(21, first=2)  # down: training goes on
    while "MLflow takes no points" not in capsys.readouterr().err:
        training.tracker.log(22, {"": 0})  # asks for a flight again, should the first still have been under way
        time.sleep(0.1)
    with server(folder, port):
        training.tracker.finish()
        tracker = training.tracker
        assert tracker.run_id
        assert history(store, tracker.run_id) == line(21)
        tags = {"phase": "phase1", "step": "21"}
        first = register_best(store, tracker.run_id, "voice", model, SERVING_CODE, "f00d", tags, {"eval/mel_ce": 2.5})
        again = register_best(store, tracker.run_id, "voice", model, SERVING_CODE, "f00d", tags, {"eval/mel_ce": 2.5})
        champion = find_champion(store, "voice")
        assert champion is not None
        fetched = artifact_folder(store, champion)
    assert (first.created, again.created, first.version, again.version) == (True, False, 1, 1)
    assert champion.tags["eval_mel_ce"] == "2.5"
    assert (fetched / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (fetched / "tokenizer" / "vocab.json").exists()
    assert [path.name for path in model.parent.iterdir()] == ["phase1"]  # the staged upload is gone
    assert not (tmp_path / "mlruns").exists()
