"""`xtts-finetune export` of what a real MLflow server on loopback keeps: downloaded, used, and gone again."""

from pathlib import Path

import pytest
from making.params import make_params
from mlflow_server import MlflowServer, running

from xtts_finetune.core.files import sha256_file, write_json
from xtts_finetune.core.layout import BUNDLE_BASE, REFERENCE, SETTINGS, WEIGHTS, Workspace
from xtts_finetune.export.choice import find_source
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import register_best

BASE = ("base.json", "config.json", "vocab.json", "mel_stats.safetensors", "more.safetensors", "vocoder.safetensors")


@pytest.mark.slow
def test_a_version_is_downloaded_for_as_long_as_it_takes(
    tmp_path: Path, model: Path, empty_server: MlflowServer
) -> None:
    params = make_params(uri=empty_server.uri)
    write_json(model / SETTINGS, params.evaluate.model_dump())
    (model / BUNDLE_BASE).mkdir()
    for name in (REFERENCE, *(f"{BUNDLE_BASE}/{name}" for name in BASE)):
        (model / name).write_bytes(name.encode() * 100)
    workspace = Workspace(tmp_path / "checkout")
    workspace.root.mkdir()
    with running(empty_server):
        store = open_store(workspace, params.tracking)
        run = store.client.create_run(store.experiment_id).info.run_id
        tags = {"phase": "phase2", "step": "21", "base": "xtts_v2"}
        digest = sha256_file(model / WEIGHTS)
        register_best(store, run, params.registry.model_name, model, SERVING_CODE, digest, tags, {"eval/mel_ce": 2.5})
        source = find_source(workspace, params, None)
        origin = source.origin
        assert (origin.phase, origin.step, origin.base, origin.figures) == ("phase2", 21, "xtts_v2", {"mel_ce": 2.5})
        assert origin.sha256 == digest
        assert source.has_vocoder
        assert source.bytes == sum((model / name).stat().st_size for name in (WEIGHTS, f"{BUNDLE_BASE}/{BASE[-1]}"))
        names = (WEIGHTS, REFERENCE, SETTINGS, *(f"{BUNDLE_BASE}/{name}" for name in BASE))
        assert source.downloaded_bytes == sum((model / name).stat().st_size for name in names)
        with source.open() as files:
            assert files.settings == params.evaluate
            assert files.weights.read_bytes() == (model / WEIGHTS).read_bytes()
            assert files.reference.read_bytes() == (model / REFERENCE).read_bytes()
            assert {file.name for file in files.base.iterdir()} == set(BASE)
        assert not files.weights.parent.exists()
