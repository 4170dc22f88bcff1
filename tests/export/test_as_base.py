"""What was exported or registered here is a base again: fine-tune a fine-tune."""

import json
from pathlib import Path

import pytest
import torch
from exporting import export
from making.evaluation import EVALUATION, KEY
from safetensors.torch import load_file

from xtts_finetune.core.files import link_or_copy, sha256_file, write_json
from xtts_finetune.core.layout import BASE_INFO, MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.model.base import Base
from xtts_finetune.model.importing import import_base
from xtts_finetune.stages.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deterministic")]


def opened(source: Path, published: Path, tmp_path: Path) -> Base:
    """The base in `source`, which takes the DVAE of the one before."""
    link_or_copy(published / "dvae.pth", source / "dvae.pth")
    folder = tmp_path / "another" / "prepared" / "base"
    folder.mkdir(parents=True)
    write_json(folder / BASE_INFO, import_base(source, folder, tmp_path / "another", pinned=False))
    return Base(folder, tmp_path / "another")


def test_an_export(workspace: Workspace, published: Path, tmp_path: Path) -> None:
    export(workspace, tmp_path / "anna")
    base, before = opened(tmp_path / "anna", published, tmp_path), Base.prepared(workspace)
    trained, gpt = load_file(workspace.model("phase1") / WEIGHTS), base.gpt().state_dict()
    assert gpt.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in gpt.items())
    assert torch.equal(base.mel_stats(), before.mel_stats())
    for file in ("vocoder.safetensors", "dvae.safetensors", "config.json", "vocab.json"):
        assert sha256_file(base.folder / file) == sha256_file(before.folder / file), file


def test_an_export_of_half_the_size(workspace: Workspace, published: Path, tmp_path: Path) -> None:
    export(workspace, tmp_path / "anna", half=True)
    base = opened(tmp_path / "anna", published, tmp_path)
    trained = load_file(workspace.model("phase1") / WEIGHTS)
    for name, value in base.gpt().state_dict().items():
        assert value.dtype == trained[name].dtype
        assert torch.allclose(value, trained[name], rtol=1e-3, atol=1e-6), name


def test_a_registered_model(workspace: Workspace, published: Path, tmp_path: Path) -> None:
    model, folder = workspace.model("phase1"), tmp_path / "bundle"
    folder.mkdir()
    card = json.loads((model / MODEL_CARD).read_text(encoding="utf-8"))
    Bundle(workspace, load_params(workspace.params), model).fill(folder, EVALUATION, KEY)
    base = opened(folder, published, tmp_path)
    trained = load_file(model / WEIGHTS)
    assert all(torch.equal(value, trained[name]) for name, value in base.gpt().state_dict().items())
    assert base.info["gpt"]["sha256"] == card["sha256"]
    assert base.info["vocoder"] == "hifigan"
