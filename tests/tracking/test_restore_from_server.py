"""`xtts-finetune restore` from a real MLflow server on loopback, which keeps the files itself."""

from pathlib import Path

import pytest
from making.project import PROJECT
from mlflow_server import MlflowServer, running

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file, write_json
from xtts_finetune.core.layout import MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.ops.restore import restore_text
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import register_best


@pytest.mark.slow
def test_weights_and_card_are_downloaded_and_checked(tmp_path: Path, model: Path, empty_server: MlflowServer) -> None:
    digest = sha256_file(model / WEIGHTS)
    write_json(model / MODEL_CARD, {"sha256": digest})
    workspace = Workspace(tmp_path / "checkout")
    workspace.root.mkdir()
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    assert "\n  uri: null" in text
    workspace.params.write_text(text.replace("\n  uri: null", f"\n  uri: {empty_server.uri}"), encoding="utf-8")
    params = load_params(workspace.params)
    with running(empty_server):
        store = open_store(workspace, params.tracking)
        run = store.client.create_run(store.experiment_id).info.run_id
        name, tags = params.registry.model_name, {"phase": "phase2", "step": "21"}
        register_best(store, run, name, model, SERVING_CODE, digest, tags, {"eval/mel_ce": 2.5})
        said = "\n".join(restore_text(workspace, "candidate"))
        assert "models/phase2: version 1 (candidate, champion): the best of phase2, Mel CE 2.500" in said
        assert "Neither dvc.lock nor a commit names it" in said
        restored = workspace.model("phase2")
        assert {file.name for file in restored.iterdir()} == {WEIGHTS, MODEL_CARD}
        assert sha256_file(restored / WEIGHTS) == digest
        [kept] = (file for file in (tmp_path / "server" / "files").rglob(WEIGHTS))
        kept.write_bytes(b"another")
        with pytest.raises(UserError, match="not those that were registered"):
            list(restore_text(workspace, "1"))
        assert sha256_file(restored / WEIGHTS) == digest
