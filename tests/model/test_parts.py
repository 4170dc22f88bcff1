"""The ways in: fine-tunes of Coqui's trainer, exports and registered models of ours, each found for what it is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import cut, halve
from making.bases import published_weights
from opening import Malicious, open_base, refused, replace, write_text
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import link_or_copy, link_tree, sha256_file, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.phase_params import Trained
from xtts_finetune.model import published as published_module
from xtts_finetune.model.base import Base
from xtts_finetune.model.header import Header
from xtts_finetune.model.importing import import_base
from xtts_finetune.model.parts import find_parts
from xtts_finetune.model.published import PUBLISHED


@pytest.fixture
def xtts_v2(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base/xtts_v2/ of the workspace `tmp_path`, with stand-ins that pass for the published files."""
    digests = {name: sha256_file(source / name) for name in PUBLISHED}
    monkeypatch.setattr(published_module, "PUBLISHED", digests)
    folder = tmp_path / "base" / "xtts_v2"
    folder.mkdir(parents=True)
    for name in PUBLISHED:
        link_or_copy(source / name, folder / name)
    return folder


def trained_by_coqui(source: Path, with_codec: bool = True) -> dict[str, Any]:
    """What GPTTrainer saves: the model once more wrapped, its DVAE and mel filters beside it, and its state."""
    model = {f"xtts.{name}": value for name, value in published_weights(source).items() if "inference" not in name}
    model |= {"torch_mel_spectrogram_dvae.mel_stft.spectrogram.window": torch.ones(1024)}
    if with_codec:
        codec = torch.load(source / "dvae.pth", weights_only=True)
        model |= {f"dvae.{name}": value for name, value in codec.items()}
    optimizer = [{"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(5)}}, "param_groups": [{"lr": 5e-6}]}]
    training = {"optimizer": optimizer, "scheduler": [], "scaler": None, "step": 7, "epoch": 1, "date": "today"}
    return {"config": {"model": "xtts"}, "model": model, **training, "model_loss": {"train_loss": 3.5}}


@pytest.fixture
def run_folder(source: Path) -> Path:
    """A run of Coqui's trainer, as it leaves one: a best, states, a config; and vocab.json beside them."""
    folder = source.parent / "GPT_XTTS_FT-November-28"
    folder.mkdir()
    torch.save(trained_by_coqui(source), folder / "best_model.pth")
    for name in ("vocab.json", "config.json"):
        link_or_copy(source / name, folder / name)
    return folder


def is_that_of(base: Base, state: dict[str, Tensor], change: float = 0.0) -> bool:
    return all(torch.equal(value, state[f"gpt.{name}"] + change) for name, value in base.gpt().state_dict().items())


def test_a_run_of_coquis_trainer_is_all_that_is_needed(run_folder: Path, source: Path, tmp_path: Path) -> None:
    base = open_base(run_folder, tmp_path)
    assert is_that_of(base, published_weights(source))
    assert torch.equal(base.mel_stats(), torch.load(source / "mel_stats.pth", weights_only=True))
    dvae = torch.load(source / "dvae.pth", weights_only=True)
    assert all(torch.equal(value, dvae[name]) for name, value in base.codec().state_dict().items())
    parts = find_parts(run_folder, False, Workspace(tmp_path))
    assert list(parts.files()) == ["config.json", "vocab.json", "best_model.pth"]
    assert list(parts.notes()) == []


def test_of_several_checkpoints_the_best_is_taken_then_the_newest(run_folder: Path, tmp_path: Path) -> None:
    def taken() -> tuple[str, list[str]]:
        parts = find_parts(run_folder, False, Workspace(tmp_path))
        return parts.weights.name, list(parts.notes())

    for step in (200, 1000, 90):
        link_or_copy(run_folder / "best_model.pth", run_folder / f"checkpoint_{step}.pth")
    others = "checkpoint_1000.pth, checkpoint_200.pth, checkpoint_90.pth"
    assert taken() == ("best_model.pth", [f"best_model.pth is taken, not {others}"])
    (run_folder / "best_model.pth").rename(run_folder / "best_model_300.pth")
    assert taken()[0] == "best_model_300.pth"
    (run_folder / "best_model_300.pth").rename(run_folder / "model.pth")
    assert taken()[0] == "model.pth"
    (run_folder / "model.pth").unlink()
    note = "checkpoint_1000.pth is taken, not checkpoint_200.pth, checkpoint_90.pth"
    assert taken() == ("checkpoint_1000.pth", [note])


def test_weights_alone_take_the_rest_from_xtts_v2(
    run_folder: Path, source: Path, xtts_v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = trained_by_coqui(source, with_codec=False)
    del content["model"]["xtts.mel_stats"]
    replace(run_folder / "best_model.pth", content)
    (run_folder / "config.json").unlink()
    parts = find_parts(run_folder, False, Workspace(tmp_path))
    names = ["vocab.json", "best_model.pth", "xtts_v2/dvae.pth", "xtts_v2/mel_stats.pth"]
    assert list(parts.files()) == names
    assert list(parts.notes()) == [
        "no config.json lies there: XTTS v2's is taken",
        f"dvae.pth is XTTS v2's own: {xtts_v2 / 'dvae.pth'}",
        f"mel_stats.pth is XTTS v2's own: {xtts_v2 / 'mel_stats.pth'}",
    ]
    said = refused(run_folder, tmp_path)  # this stand-in is smaller than XTTS v2
    assert "gpt.h.4 … gpt.h.29: 12 tensors each" in str(said)
    link_or_copy(source / "config.json", run_folder / "config.json")
    shutil.rmtree(tmp_path / "prepared")
    assert is_that_of(open_base(run_folder, tmp_path), published_weights(source))
    replace(xtts_v2 / "dvae.pth", {})
    with pytest.raises(UserError, match=r"dvae\.pth\n      is not the published file"):
        find_parts(run_folder, False, Workspace(tmp_path))
    (xtts_v2 / "dvae.pth").unlink()
    with pytest.raises(UserError, match=r"lacks dvae\.pth, and neither best_model\.pth nor .*xtts_v2 has it") as error:
        find_parts(run_folder, False, Workspace(tmp_path))
    assert "base fetch --accept-licence" in str(error.value)


def halved(tensor: Tensor) -> Tensor:
    """As `xtts-finetune export --half` does it."""
    return tensor.half() if tensor.is_floating_point() and bool(tensor.half().isfinite().all()) else tensor


def as_exported(source: Path, half: bool) -> Path:
    """As `xtts-finetune export` writes it: tests/export has the real one."""
    folder = source.parent / "anna"
    folder.mkdir()
    state = {
        name: value + 0.001 if name.startswith("gpt.") else value
        for name, value in published_weights(source).items()
        if name.startswith(("gpt.", "hifigan_decoder.")) and "gpt_inference" not in name
    }
    if half:
        state = {name: halved(value) for name, value in state.items()}
    stats = published_weights(source)["mel_stats"]
    torch.save({"model": {**state, "mel_stats": stats}}, folder / "model.pth")
    for name in ("config.json", "vocab.json"):
        link_or_copy(source / name, folder / name)
    return folder


@pytest.mark.parametrize("half", [False, True])
def test_an_export_is_a_base(source: Path, xtts_v2: Path, tmp_path: Path, half: bool) -> None:
    base = open_base(as_exported(source, half), tmp_path)
    gpt = base.gpt()
    state = published_weights(source)
    assert all(value.dtype == torch.float32 for value in gpt.state_dict().values() if value.is_floating_point())
    wanted = {name: state[f"gpt.{name}"] + 0.001 for name in gpt.state_dict()}
    if half:
        wanted = {name: halved(value).float() for name, value in wanted.items()}
    assert all(torch.equal(value, wanted[name]) for name, value in gpt.state_dict().items())
    vocoder = load_file(base.folder / "vocoder.safetensors").values()
    assert all(value.dtype == torch.float32 for value in vocoder if value.is_floating_point())
    assert torch.equal(base.mel_stats(), state["mel_stats"])
    assert xtts_v2.is_dir()


@pytest.fixture
def registered(imported: Workspace, tmp_path: Path) -> Path:
    """As a fine-tune of `imported` is registered: stages/bundle.py."""
    folder = tmp_path / "base" / "xtts-finetune-3"
    folder.mkdir(parents=True)
    base = imported.prepared / "base"
    weights = Base(base, imported.root).gpt().state_dict()
    save_file({name: value + 0.001 for name, value in weights.items()}, folder / "model.safetensors")
    write_json(folder / "model.json", {"sha256": sha256_file(folder / "model.safetensors"), "phase": "phase2"})
    (folder / "base").mkdir()
    for name in ("base.json", "config.json", "vocab.json", "mel_stats.safetensors", "vocoder.safetensors"):
        link_or_copy(base / name, folder / "base" / name)
    return folder


def test_a_registered_model_is_a_base(registered: Path, source: Path, xtts_v2: Path, tmp_path: Path) -> None:
    base = open_base(registered, tmp_path)
    assert is_that_of(base, published_weights(source), 0.001)
    assert base.info["gpt"]["path"] == "base/xtts-finetune-3/model.safetensors"
    assert base.info["vocoder"] == "hifigan"
    parts = find_parts(registered, False, Workspace(tmp_path))
    own = {"base/config.json", "base/vocab.json", "model.safetensors", "base/mel_stats.safetensors"}
    assert set(parts.files()) == own | {"base/vocoder.safetensors", "xtts_v2/dvae.pth"}
    assert list(parts.notes()) == [f"dvae.pth is XTTS v2's own: {xtts_v2 / 'dvae.pth'}"]


def test_a_registered_mini_has_its_own_codec(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "registered"
    folder.mkdir()
    link_tree(workspace.prepared / "base", folder / "base")
    (folder / "base" / "gpt.safetensors").rename(folder / "model.safetensors")
    write_json(folder / "model.json", {"sha256": sha256_file(folder / "model.safetensors")})
    again = Workspace(tmp_path / "again")
    again.prepared.mkdir(parents=True)
    (again.prepared / "base").mkdir()
    info = import_base(folder, again.prepared / "base", again.root, pinned=False)
    write_json(again.prepared / "base" / "base.json", info)
    before, after = Base.prepared(workspace), Base.prepared(again)
    assert (info["vocoder"], info["codec"]) == ("griffin_lim", before.info["codec"])
    for one, other in ((before.gpt(), after.gpt()), (before.codec(), after.codec())):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_what_was_trained_alone_is_no_base(registered: Path, xtts_v2: Path, tmp_path: Path) -> None:
    trained = Trained(adapters=None, parts=["final_norm"])
    header = Header(trained=trained, base="0" * 64).entries()
    (registered / "model.safetensors").unlink()
    save_file({"final_norm.weight": torch.ones(256)}, registered / "model.safetensors", header)
    write_json(registered / "model.json", {"sha256": sha256_file(registered / "model.safetensors")})
    [problem] = refused(registered, tmp_path).problems
    assert problem.what.startswith("holds what was trained alone")
    assert "xtts-finetune export" in problem.remedy


def test_all_that_a_registered_model_lacks_is_named(registered: Path, xtts_v2: Path, tmp_path: Path) -> None:
    (registered / "model.json").unlink()
    (registered / "base" / "vocab.json").unlink()
    [problem] = refused(registered, tmp_path).problems
    assert problem.what == "lacks model.json, base/vocab.json"


# Damage, and pickles that would run code: each has its own message, and nothing is run.


@pytest.mark.parametrize("name", ["model.pth", "dvae.pth", "mel_stats.pth"])
def test_a_published_file_that_is_cut_short(published: Path, tmp_path: Path, name: str) -> None:
    """It is not opened, but its end is looked for."""
    source = tmp_path / "base"
    shutil.copytree(published, source)
    cut(source / name)
    [problem] = refused(source, tmp_path).problems
    assert (problem.where, problem.what) == (str(source / name), "is cut short: its end is not there")


@pytest.mark.parametrize("name", ["model.pth", "dvae.pth", "mel_stats.pth"])
@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "is empty"), (b"<!DOCTYPE html>", "is no file of torch's: it begins with b'<!DOCTYPE ht'")],
    ids=["empty", "a web page"],
)
def test_a_published_file_that_is_none(published: Path, tmp_path: Path, name: str, content: bytes, what: str) -> None:
    """As a download that was refused leaves it."""
    source = tmp_path / "base"
    shutil.copytree(published, source)
    (source / name).unlink()
    (source / name).write_bytes(content)
    [problem] = refused(source, tmp_path).problems
    assert (problem.where, problem.what) == (str(source / name), what)


def test_a_checkpoint_whose_configuration_names_the_codecs_file(
    run_folder: Path, source: Path, xtts_v2: Path, tmp_path: Path
) -> None:
    """Its own path in it begins as the names of the codec's tensors do."""
    content = trained_by_coqui(source, with_codec=False)
    replace(run_folder / "best_model.pth", {**content, "config": {"dvae_checkpoint": "dvae.pth"}})
    assert find_parts(run_folder, False, Workspace(tmp_path)).codec == xtts_v2 / "dvae.pth"


@pytest.mark.parametrize("damage", [cut, halve, lambda path: path.write_bytes(b"")], ids=["cut", "half", "empty"])
def test_a_truncated_checkpoint_of_coquis(run_folder: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    damage(run_folder / "best_model.pth")
    [problem] = refused(run_folder, tmp_path).problems
    assert problem.where == str(run_folder / "best_model.pth")
    assert problem.what.startswith("is damaged, or not of torch's format since 1.6")


def test_truncated_weights_of_a_registered_model(registered: Path, xtts_v2: Path, tmp_path: Path) -> None:
    weights = registered / "model.safetensors"
    cut(weights)
    [problem] = refused(registered, tmp_path).problems
    assert (problem.where, problem.what[:29]) == (str(weights), "is damaged, or another model:")
    write_json(registered / "model.json", {"sha256": sha256_file(weights)})
    [problem] = refused(registered, tmp_path).problems
    assert (problem.where, problem.what[:37]) == (str(weights), "is damaged or no safetensors file: Er")


@pytest.mark.parametrize("name", ["mel_stats.safetensors", "vocoder.safetensors"])
def test_a_truncated_part_of_a_registered_model(registered: Path, xtts_v2: Path, tmp_path: Path, name: str) -> None:
    file = registered / "base" / name
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-7])
    [problem] = refused(registered, tmp_path).problems
    assert (problem.where, problem.what[:34]) == (str(file), "is damaged or no safetensors file:")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"vocoder": "hifigan", "codec": {"codes": 1}}', '{"vocoder": "x", "codec": 3}']
)
def test_a_base_json_that_is_none(registered: Path, xtts_v2: Path, tmp_path: Path, content: str) -> None:
    write_text(registered / "base" / "base.json", content)
    assert [problem.where for problem in refused(registered, tmp_path).problems] == [
        str(registered / "base" / "base.json")
    ]


def test_a_checkpoint_of_coquis_that_would_run_code(run_folder: Path, tmp_path: Path) -> None:
    content = torch.load(run_folder / "best_model.pth", weights_only=True)
    replace(run_folder / "best_model.pth", {**content, "config": Malicious(tmp_path / "owned")})
    [problem] = refused(run_folder, tmp_path).problems
    assert problem.what.startswith("is not plain weights, and refused")
    assert not (tmp_path / "owned").exists()


def test_an_export_that_would_run_code(source: Path, xtts_v2: Path, tmp_path: Path) -> None:
    folder = as_exported(source, half=False)
    content = torch.load(folder / "model.pth", weights_only=True)
    replace(folder / "model.pth", {**content, "x": Malicious(tmp_path / "owned")})
    [problem] = refused(folder, tmp_path).problems
    assert problem.what.startswith("is not plain weights, and refused")
    assert not (tmp_path / "owned").exists()


def test_a_registered_model_that_is_a_pickle(registered: Path, xtts_v2: Path, tmp_path: Path) -> None:
    weights = registered / "model.safetensors"
    replace(weights, Malicious(tmp_path / "owned"))
    write_json(registered / "model.json", {"sha256": sha256_file(weights)})
    [problem] = refused(registered, tmp_path).problems
    assert problem.what.startswith("is damaged or no safetensors file")
    assert not (tmp_path / "owned").exists()
