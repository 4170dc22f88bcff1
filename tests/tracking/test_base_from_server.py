"""`xtts-finetune base fetch` of what a real MLflow server on loopback keeps: downloaded and checked."""

from pathlib import Path

import numpy as np
import pytest
from making.project import PROJECT
from mlflow_server import MlflowServer, running
from safetensors.numpy import save_file
from small_disks import small_disk

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file, write_json
from xtts_finetune.core.layout import BUNDLE_BASE, MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.ops.base import fetch_lines
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import register_best

BASE = ("base.json", "config.json", "vocab.json", "mel_stats.safetensors", "vocoder.safetensors")


@pytest.mark.slow
def test_a_version_is_downloaded_and_checked(tmp_path: Path, model: Path, empty_server: MlflowServer) -> None:
    save_file({"weights": np.zeros(1000, np.float32)}, model / WEIGHTS)
    digest = sha256_file(model / WEIGHTS)
    write_json(model / MODEL_CARD, {"sha256": digest})
    (model / BUNDLE_BASE).mkdir()
    for name in BASE:
        (model / BUNDLE_BASE / name).write_bytes(name.encode() * 1000)
    workspace = Workspace(tmp_path / "checkout")
    workspace.root.mkdir()
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    workspace.params.write_text(text.replace("\n  uri: null", f"\n  uri: {empty_server.uri}"), encoding="utf-8")
    params = load_params(workspace.params)
    with running(empty_server):
        store = open_store(workspace, params.tracking)
        run = store.client.create_run(store.experiment_id).info.run_id
        name, tags = params.registry.model_name, {"phase": "phase2", "step": "21"}
        register_best(store, run, name, model, SERVING_CODE, digest, tags, {"eval/mel_ce": 2.5})
        with small_disk(workspace.base, 40_960), pytest.raises(UserError, match="the base does not fit on the disk"):
            list(fetch_lines(workspace, f"models:/{name}@candidate", accepted=False))
        said = list(fetch_lines(workspace, f"models:/{name}/1", accepted=False))
        folder = workspace.base / f"{name}-1"
        assert said[-1] == f"In params.yaml: base: {name}-1"
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == {WEIGHTS, MODEL_CARD, *(f"{BUNDLE_BASE}/{name}" for name in BASE)}
        assert all((folder / name).read_bytes() == (model / name).read_bytes() for name in files)
        (folder / WEIGHTS).write_bytes(b"damaged since")
        list(fetch_lines(workspace, f"models:/{name}/1", accepted=False))
        assert sha256_file(folder / WEIGHTS) == digest
