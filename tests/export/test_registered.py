"""`xtts-finetune export` of a registered version: its own weights, base and voice, whatever lies in the workspace."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damage import replace_flipped
from exporting import export, refused
from making.evaluation import EVALUATION, KEY
from making.prepared import list_features
from safetensors.torch import load_file

from xtts_finetune.core.files import read_json, write_json, write_text
from xtts_finetune.core.layout import (
    BASE_INFO,
    CARD,
    DATA_CARD,
    LINEAGE,
    MODEL_CARD,
    REFERENCE,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.core.params import load_params
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.stages.bundle import bundle_of
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import MODEL_FOLDER
from xtts_finetune.tracking.registry import register_best

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deterministic")]  # MLflow takes seconds to load


@pytest.fixture
def registered(workspace: Workspace, empty_database: Path, tmp_path: Path) -> Workspace:
    """Version 1 is what lies in models/phase1 as well."""
    workspace.tracking_db.parent.mkdir()
    shutil.copy(empty_database, workspace.tracking_db)
    params = load_params(workspace.params)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with bundle_of(workspace, params, "phase1") as best:
        best.fill(bundle, EVALUATION, KEY)
    store = open_store(workspace, params.tracking)
    run = store.client.create_run(store.experiment_id).info.run_id
    digest = json.loads((bundle / MODEL_CARD).read_text())["sha256"]
    tags = {"phase": "phase1", "step": "201", "base": params.base, "language": "de"}
    figures = {"eval/mel_ce": 4.25, "eval/text_ce": 3.5}
    register_best(store, run, params.registry.model_name, bundle, SERVING_CODE, digest, tags, figures)
    return workspace


def edit(registered: Workspace, **tags: str) -> None:
    """As anybody can, on the version's page."""
    params = load_params(registered.params)
    client = open_store(registered, params.tracking).client
    for name, text in tags.items():
        client.set_model_version_tag(params.registry.model_name, "1", name, text)


def page_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


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
    assert "4.250" in page_of(tmp_path / "champion")
    assert "the settings that the model was heard with when it was evaluated" in page_of(tmp_path / "champion")
    assert "language='de'" in page_of(tmp_path / "champion")  # params.yaml says en
    assert "1               version 1 (candidate, champion)" in refused(registered, tmp_path / "other", "7")


def test_its_own_voice_goes_with_it_whatever_is_prepared(registered: Workspace, tmp_path: Path) -> None:
    export(registered, tmp_path / "phase", "phase1", speaker="anna")
    list_features(registered, **{"train.jsonl": "of Bob"})
    replace_flipped(registered.prepared / REFERENCE)  # the bundle has a copy
    said = refused(registered, tmp_path / "bob", "phase1")
    assert "was trained with other recordings" in said
    assert "export its registered version" in said
    export(registered, tmp_path / "anna", "champion")
    for name in ("model.pth", "speakers_xtts.pth"):
        assert (tmp_path / "anna" / name).read_bytes() == (tmp_path / "phase" / name).read_bytes()


def test_tags_that_somebody_edited(registered: Workspace, tmp_path: Path) -> None:
    edit(registered, step="12a", eval_mel_ce="4,25", parameters="x", language="Klingon")
    said = export(registered, tmp_path / "anna", "1")
    assert "version 1 (candidate, champion): the best of phase1\n" in said
    assert "its language is not recorded: README.md has params.yaml's" in said
    assert "| phase, step | phase1, 201 |" in page_of(tmp_path / "anna"), "its lineage is no tag"
    assert "language='en'" in page_of(tmp_path / "anna")
    assert "1               version 1 (candidate, champion)" in refused(registered, tmp_path / "other", "7")


def test_its_papers_are_those_that_it_was_registered_with(registered: Workspace, tmp_path: Path) -> None:
    [bundled] = registered.artifacts.rglob(LINEAGE)
    write_text(bundled.with_name(DATA_CARD), "{}")
    shutil.rmtree(registered.model("phase1"))
    export(registered, tmp_path / "anna", "1")
    assert read_json(tmp_path / "anna" / LINEAGE) == read_json(bundled)
    assert (tmp_path / "anna" / DATA_CARD).read_text() == "{}"
    assert "| **phase1, this one** | 4.250 (4.125 to 4.375) | 3.500 (3.250 to 3.750) | 0.0350 |" in page_of(
        tmp_path / "anna"
    )
    assert "| run of evaluate | 0123456789abcdef |" in page_of(tmp_path / "anna")


def test_a_version_of_before_has_what_its_tags_tell(registered: Workspace, tmp_path: Path) -> None:
    edit(registered, step="12a", eval_mel_ce="4,25")
    for file in (*registered.artifacts.rglob(LINEAGE), *registered.artifacts.rglob(f"{MODEL_FOLDER}/{CARD}")):
        file.unlink()
    export(registered, tmp_path / "anna", "1")
    for row in ("| phase, step | phase1, not known |", "| **phase1, this one** | not known | 3.500 | 0.0350 |"):
        assert row in page_of(tmp_path / "anna")
    lineage = read_json(tmp_path / "anna" / LINEAGE)
    assert lineage["base"]["sha256"] == read_json(registered.prepared / "base" / BASE_INFO)["gpt"]["sha256"]
    unknown = {
        "git_commit",
        "git_dirty",
        "params",
        "requirements_sha256",
        "hardware",
        "software",
        "dvc",
        "data",
        "seed",
    }
    assert {name: lineage[name] for name in unknown} == dict.fromkeys(unknown)
    assert lineage["runs"] == {}
    assert not (tmp_path / "anna" / DATA_CARD).exists()


@pytest.mark.parametrize("change", [{"format": "one"}, {"model": {}}, {"data": {"clips": 3}}, {"runs": {"phase1": 7}}])
def test_a_damaged_lineage_is_refused(registered: Workspace, tmp_path: Path, change: dict[str, object]) -> None:
    [file] = registered.artifacts.rglob(LINEAGE)
    write_json(file, read_json(file) | change)
    assert f"{file}\n      cannot be read: {next(iter(change))}" in refused(registered, tmp_path / "anna", "1")


def test_the_lineage_of_other_weights_is_refused(registered: Workspace, tmp_path: Path) -> None:
    [file] = registered.artifacts.rglob(LINEAGE)
    content = read_json(file)
    write_json(file, content | {"model": content["model"] | {"sha256": 64 * "0"}})
    assert "is of another model, whose weights are 000000000000" in refused(registered, tmp_path / "anna", "1")


@pytest.mark.parametrize("tag", ["phase", "base"])
def test_tags_that_cannot_be_shown(registered: Workspace, tmp_path: Path, tag: str) -> None:
    edit(registered, **{tag: "\x1b[2Jphase1"})
    said = refused(registered, tmp_path / "anna", "1")
    assert f"its tag {tag} has characters that cannot be shown" in said
    assert "\x1b" not in said
    assert "\x1b" not in refused(registered, tmp_path / "anna", "7")


@pytest.mark.parametrize("name", ["vocoder.safetensors", "vocab.json", "base.json", REFERENCE])
def test_what_it_speaks_with_is_damaged(registered: Workspace, tmp_path: Path, name: str) -> None:
    [file] = registered.artifacts.rglob(name)
    if name == "base.json":
        write_text(file, "{")
        assert "cannot be read" in refused(registered, tmp_path / "anna", "champion")
    else:
        replace_flipped(file)
        assert f"{file}\n      is damaged" in refused(registered, tmp_path / "anna", "champion")


def test_damaged_or_gone(registered: Workspace, tmp_path: Path) -> None:
    [weights] = registered.artifacts.rglob(WEIGHTS)
    replace_flipped(weights)
    assert "is damaged, or another model" in refused(registered, tmp_path / "anna", "champion")
    weights.unlink()
    said = refused(registered, tmp_path / "anna", "champion")
    assert "its files cannot be had" in said
