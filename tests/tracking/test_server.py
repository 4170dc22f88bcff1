"""Against a real MLflow server on loopback, which keeps the artifacts itself."""

import time
from pathlib import Path

import pytest
from mlflow_server import MlflowServer, running
from runs import artifact_folder, begin, history, line

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import find_champion, register_best


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(
    tmp_path: Path,
    model: Path,
    empty_server: MlflowServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = empty_server
    remote = TrackingParams(experiment="voices", uri=server.uri, log_every_steps=1, flush_every_steps=1)
    with running(server):
        store = open_store(Workspace(tmp_path), remote)
        training = begin(lambda: store, tmp_path / "work", flush_every_steps=1, uri=remote.uri)
        training.line(1)
        while not training.tracker.run_id:
            time.sleep(0.1)
    training.line(21, first=2)  # down: training goes on
    while "MLflow takes no points" not in capsys.readouterr().err:
        training.tracker.log(22, {"": 0})  # asks for a flight again, should the first still have been under way
        time.sleep(0.1)
    with running(server):
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
