"""`xtts-finetune restore` over a model that lies in models/: what only a tag says is elsewhere is not replaced."""

import json
import shutil
from pathlib import Path

import pytest
from making.project import PROJECT

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.layout import MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.ops.restore import restore_text
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.registry import register_best


@pytest.fixture
def two(store: TrackingStore, workspace: Workspace, model: Path) -> Workspace:
    """Version 1, and version 2, which lies in models/phase2/ as well."""
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    name = load_params(workspace.params).registry.model_name
    run = store.client.create_run(store.experiment_id).info.run_id
    for number in 1, 2:
        for file, content in (WEIGHTS, f"weights {number}"), (MODEL_CARD, ""):
            (model / file).unlink()
            (model / file).write_text(content)
        digest = sha256_file(model / WEIGHTS)
        (model / MODEL_CARD).write_text(json.dumps({"sha256": digest}))
        register_best(store, run, name, model, SERVING_CODE, digest, {"phase": "phase2", "step": "7"}, {})
    workspace.model("phase2").mkdir()
    for file in WEIGHTS, MODEL_CARD:
        shutil.copy(model / file, workspace.model("phase2") / file)
    return workspace


def stored(workspace: Workspace) -> Path:
    """Version 2's weights in the store."""
    [file] = (file for file in workspace.artifacts.rglob(WEIGHTS) if file.read_text() == "weights 2")
    return file


def here(workspace: Workspace) -> str:
    return (workspace.model("phase2") / WEIGHTS).read_text()


def test_what_our_own_store_has_byte_for_byte_is_replaced(two: Workspace) -> None:
    list(restore_text(two, "1"))
    assert here(two) == "weights 1"
    list(restore_text(two, "2"))
    assert here(two) == "weights 2"


@pytest.mark.parametrize("lost", [False, True], ids=["damaged", "gone"])
def test_what_our_own_store_only_says_it_has_is_not(two: Workspace, lost: bool) -> None:
    weights = stored(two)
    weights.unlink()
    if not lost:
        weights.write_text("weights ?")
    with pytest.raises(UserError, match="only copy"):
        list(restore_text(two, "1"))
    assert here(two) == "weights 2"


def test_what_another_store_says_it_has_is_not(two: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(tmp_path / "elsewhere")
    shutil.copytree(two.model("phase2"), elsewhere.model("phase2"))
    text = two.params.read_text(encoding="utf-8").replace("uri: null", f"uri: sqlite:///{two.tracking_db}")
    elsewhere.params.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="only copy"):
        list(restore_text(elsewhere, "1"))
    assert here(elsewhere) == "weights 2"


def test_where_nothing_is_registered_it_says_what_registers(store: TrackingStore, workspace: Workspace) -> None:
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    with pytest.raises(UserError, match="no version of xtts-finetune is registered") as refused:
        list(restore_text(workspace, "champion"))
    assert "choose one" not in str(refused.value)
