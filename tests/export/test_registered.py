"""`xtts-finetune export` of a registered version: its own weights, base and voice, whatever lies in the workspace."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damage import replace_flipped
from exporting import export, refused
from safetensors.torch import load_file

from xtts_finetune.core.layout import MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.stages.bundle import bundle_of
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import register_best

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deterministic")]  # MLflow takes seconds to load


@pytest.fixture
def registered(workspace: Workspace, tmp_path: Path) -> Workspace:
    """Version 1 is what lies in models/phase1 as well."""
    params = load_params(workspace.params)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with bundle_of(workspace, params, "phase1") as best:
        best.fill(bundle)
    store = open_store(workspace, params.tracking)
    run = store.client.create_run(store.experiment_id).info.run_id
    digest = json.loads((bundle / MODEL_CARD).read_text())["sha256"]
    tags = {"phase": "phase1", "step": "201", "base": params.base}
    figures = {"eval/mel_ce": 4.25, "eval/text_ce": 3.5}
    register_best(store, run, params.registry.model_name, bundle, SERVING_CODE, digest, tags, figures)
    return workspace


def test_it_needs_nothing_else_of_the_workspace(registered: Workspace, tmp_path: Path) -> None:
    export(registered, tmp_path / "phase", "phase1", speaker="anna")
    weights = load_file(registered.model("phase1") / WEIGHTS)
    for place in (registered.prepared, registered.model("phase1"), registered.work("phase2")):
        shutil.rmtree(place)
    for what in ("1", "champion", None):
        folder = tmp_path / str(what)
        assert "version 1 (candidate, champion): the best of phase1, Mel CE 4.250" in export(
            registered, folder, what, speaker="anna"
        )
        content = torch.load(folder / "model.pth", weights_only=True)["model"]
        assert all(torch.equal(content[f"gpt.{name}"], value) for name, value in weights.items())
        for name in ("model.pth", "speakers_xtts.pth", "config.json", "vocab.json", "LICENSE.txt"):
            assert (folder / name).read_bytes() == (tmp_path / "phase" / name).read_bytes()
    assert "4.250" in (tmp_path / "champion" / "README.md").read_text(encoding="utf-8")
    assert "1               version 1 (candidate, champion)" in refused(registered, tmp_path / "other", "7")


def test_damaged_or_gone(registered: Workspace, tmp_path: Path) -> None:
    [weights] = registered.artifacts.rglob(WEIGHTS)
    replace_flipped(weights)
    assert "is damaged, or another model" in refused(registered, tmp_path / "anna", "champion")
    weights.unlink()
    said = refused(registered, tmp_path / "anna", "champion")
    assert "its files cannot be had" in said
