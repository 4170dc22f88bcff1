"""Whose shapes a plan is of: those of the base that params.yaml names, wherever its files lie in it."""

import shutil
from pathlib import Path

import pytest

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import link_or_copy, read_json, sha256_file, write_json
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, CONFIG, MODEL_CARD, VOCABULARY, WEIGHTS, Workspace
from xtts_finetune.model import xtts
from xtts_finetune.planning.network import Network, network_of

XTTS_V2_TOKENS = 6681


def tokens(network: Network) -> int:
    return network.shapes["text_embedding.weight"][0]


def width(network: Network) -> int:
    return network.shapes["final_norm.weight"][0]


def of_coqui(published: Path, folder: Path, *names: str) -> Path:
    """A folder with files of a base as Coqui's trainer calls them."""
    folder.mkdir(parents=True)
    for name in names:
        link_or_copy(published / name.replace("best_model", "model"), folder / name)
    return folder


def registered(workspace: Workspace, name: str) -> Path:
    """What `base fetch` brings of a version of mini: prepared/ as it was when it was trained."""
    folder = workspace.base / name
    shutil.copytree(workspace.prepared / "base", folder / BUNDLE_BASE)
    (folder / BUNDLE_BASE / "gpt.safetensors").rename(folder / WEIGHTS)
    write_json(folder / MODEL_CARD, {"sha256": sha256_file(folder / WEIGHTS)})
    return folder


def test_as_prepared(workspace: Workspace) -> None:
    network = network_of(workspace, "mini")
    assert network.source == "as prepared"
    assert width(network) == 64


def test_a_registered_of_mini(workspace: Workspace) -> None:
    """With its files in base/; also when `prepare` has opened it."""
    folder = registered(workspace, "xtts-finetune-1")
    before = network_of(workspace, "mini")
    network = network_of(workspace, "xtts-finetune-1")
    assert network.source == f"by the files in {folder}"
    assert network.shapes == before.shapes
    info = workspace.prepared / "base" / BASE_INFO
    content = read_json(info)
    content["gpt"]["path"] = f"base/xtts-finetune-1/{WEIGHTS}"
    write_json(info, content)
    assert network_of(workspace, "xtts-finetune-1").source == "as prepared"
    assert network_of(workspace, "mini").source == "as prepare will build it"


def test_another_base_is_prepared(imported: Workspace, published: Path, tmp_path: Path) -> None:
    assert network_of(imported, published.name).source == "as prepared"
    other = of_coqui(published, tmp_path / "other", CONFIG, VOCABULARY, "model.pth", "dvae.pth", "mel_stats.pth")
    assert network_of(imported, str(other)).source == f"by the files in {other}"


def test_the_files_of_a_run_of_coqui_s(published: Path, tmp_path: Path) -> None:
    """Without its config.json, which then is XTTS v2's: the vocabulary is its own."""
    folder = of_coqui(published, tmp_path / "run", VOCABULARY, "best_model.pth", "dvae.pth", "mel_stats.pth")
    network = network_of(Workspace(tmp_path), str(folder))
    assert network.source == f"by the files in {folder}"
    assert (width(network), tokens(network)) == (1024, xtts.build_tokenizer(folder / VOCABULARY).get_number_tokens())


def test_of_xtts_v2_no_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "base" / "xtts_v2").mkdir(parents=True)
    network = network_of(Workspace(tmp_path), "xtts_v2")
    assert network.source == "as published"
    assert (width(network), tokens(network)) == (1024, XTTS_V2_TOKENS)


def test_of_a_base_that_is_not_there_it_is_said(tmp_path: Path) -> None:
    network = network_of(Workspace(tmp_path), "anna")
    assert network.source == f"as XTTS v2 was published, as there is no folder {tmp_path / 'base' / 'anna'}"


def test_damaged_files_of_a_base_are_named(published: Path, tmp_path: Path) -> None:
    folder = of_coqui(published, tmp_path / "mine", "best_model.pth", "dvae.pth", "mel_stats.pth")
    (folder / CONFIG).write_text('{"model_args": {}}')
    (folder / VOCABULARY).write_text("{}")
    with pytest.raises(UserError, match="are not of an XTTS model") as error:
        network_of(Workspace(tmp_path), str(folder))
    assert error.value.problems[0].where == str(folder)


def test_what_a_base_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "base" / "anna").mkdir(parents=True)
    with pytest.raises(UserError, match=r"lacks vocab\.json, weights"):
        network_of(Workspace(tmp_path), "anna")
