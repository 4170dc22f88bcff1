"""An extended vocabulary from `prepare` to Coqui's own class: on a base of XTTS v2's form."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from damage import replace_flipped
from making.params import make_params
from making.recordings import add_samples, sample_lines, write_metadata
from safetensors.torch import save_file
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_finetune.checkpoints.identity import TRAINED_WITH, Identity, identity_of, trained_with
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import link_or_copy, link_tree, read_json, sha256_file, write_json
from xtts_finetune.core.layout import MODEL_CARD, NEW_ROWS, WEIGHTS, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.export.command import Request, export_lines
from xtts_finetune.model.base import Base
from xtts_finetune.model.rows import BY_TOKEN
from xtts_finetune.stages.check import check
from xtts_finetune.stages.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deterministic")]
TEXT = "Știința și țara."
NEW = ["ș", "ț"]
CLIPS = 6


def write_params(root: Path, extend: str | None, pieces: int = 0, base: str = "../base/small") -> Params:
    content = make_params().model_dump() | {"base": base, "vocabulary": {"extend": extend, "pieces": pieces}}
    (root / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_params(root / "params.yaml")


@pytest.fixture(scope="module")
def recorded(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A base, and clips of which two have characters that it lacks. Every test prepares them anew."""
    workspace = Workspace(tmp_path_factory.mktemp("extended"))
    workspace.base.mkdir()
    link_tree(published, workspace.base / "small")
    add_samples(workspace.data, CLIPS)
    lines = sample_lines(CLIPS)
    lines[:2] = [f"{line.split('|')[0]}|{TEXT}|{TEXT}" for line in lines[:2]]
    write_metadata(workspace.data, lines)
    yield workspace
    shutil.rmtree(workspace.root)


def report_of(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = read_json(workspace.dataset_report)
    return content


def identity(workspace: Workspace, params: Params) -> Identity:
    found = identity_of(workspace, params, "phase1")
    assert found
    return found


def test_prepare_says_what_is_refused_and_the_remedy(recorded: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(recorded, write_params(recorded.root, None))
    said = capsys.readouterr().out
    assert "lacks 2 characters or languages of 2 of 6 clips" in said
    assert "'ș' in 2 clips, 4 times" in said
    assert "vocabulary.extend: auto" in said
    report = report_of(recorded)
    assert report["vocabulary"]["refused"] == {"ș": {"clips": 2, "times": 4}, "ț": {"clips": 2, "times": 4}}
    assert "vocabulary.extend: auto" in report["vocabulary"]["remedy"]
    assert report["clips"]["rejected"] == 2
    assert not (recorded.prepared / "base" / NEW_ROWS).exists()


def test_auto_accepts_them_and_leaves_the_old_rows_alone(
    recorded: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(recorded, write_params(recorded.root, None))
    before = Base.prepared(recorded)
    old, parameters, unextended = (
        before.gpt().state_dict(),
        before.info["gpt"]["parameters"],
        identity(recorded, load_params(recorded.params)),
    )
    capsys.readouterr()

    params = write_params(recorded.root, "auto", pieces=3)
    prepare(recorded, params)
    said, report = capsys.readouterr().out, report_of(recorded)
    added = report["vocabulary"]["added"]
    assert list(added["characters"]) == NEW
    assert "2 characters: 'ș' 'ț'" in said
    assert len(added["pieces"]) == 3
    tokens = report["vocabulary"]["tokens_of_all_texts"]
    assert tokens["after"] < tokens["before"]
    assert report["clips"]["rejected"] == 0
    assert "refused" not in report["vocabulary"]

    base = Base.prepared(recorded)
    new = base.gpt().state_dict()
    assert new.keys() == old.keys()
    for name, tensor in old.items():
        assert torch.equal(new[name][: len(tensor)], tensor)
        assert len(new[name]) == len(tensor) + (5 if name in BY_TOKEN else 0)
    assert base.info["gpt"]["parameters"] == sum(tensor.numel() for tensor in base.gpt().parameters()) > parameters
    highest = max(FeatureReader(recorded.prepared, split).tokens(0).max() for split in ("train", "eval"))
    assert highest < base.tokenizer().get_number_tokens()

    extended = identity(recorded, params)
    assert extended.key != unextended.key
    prepare(recorded, (fewer := write_params(recorded.root, "auto", pieces=2)))
    assert identity(recorded, fewer).key not in (extended.key, unextended.key)

    replace_flipped(recorded.prepared / "base" / NEW_ROWS)
    with pytest.raises(UserError, match="is not the file that prepare wrote"):
        Base.prepared(recorded).gpt()


def test_a_list_in_data(recorded: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    file = recorded.data / "pieces.txt"
    params = write_params(recorded.root, file.name)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        check(recorded, params)  # before DVC deletes what prepare made
    file.write_text("ș\nști\n", encoding="utf-8")
    prepare(recorded, params)
    said, report = capsys.readouterr().out, report_of(recorded)["vocabulary"]
    assert list(report["added"]["characters"]) == ["ș"]
    assert report["added"]["pieces"][-1] == "ști"
    assert list(report["refused"]) == ["ț"]
    assert "name them in data/pieces.txt, too" in said


def test_where_no_clip_is_left_the_remedy_is_said(recorded: Workspace) -> None:
    metadata = recorded.data / "metadata.csv"
    content = metadata.read_bytes()
    write_metadata(recorded.data, [f"{line.split('|')[0]}|{TEXT}" for line in sample_lines(CLIPS)])
    try:
        with pytest.raises(UserError, match=r"are added by vocabulary\.extend: auto"):
            prepare(recorded, write_params(recorded.root, None))
    finally:
        metadata.write_bytes(content)
    assert set(report_of(recorded)["vocabulary"]["refused"]) == set(NEW)


def pretend_to_train(workspace: Workspace) -> None:
    """models/phase1 with other weights than the base's."""
    model = workspace.model("phase1")
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    state = Base.prepared(workspace).gpt().state_dict()
    save_file({name: tensor + 0.001 for name, tensor in state.items()}, model / WEIGHTS)
    figures = {"mel_ce": 4.25, "text_ce": 3.5, "text_ce_weighted": 0.035}
    params = load_params(workspace.params)
    identity = identity_of(workspace, params, "phase1")
    assert identity
    card = {"phase": "phase1", "base": params.base, "sha256": sha256_file(model / WEIGHTS), "step": 2, "last_step": 2}
    card |= {"eval": figures, TRAINED_WITH: trained_with(workspace, identity), "params": {"seed": 1}}
    write_json(model / MODEL_CARD, card)


def test_coquis_class_loads_it_and_it_is_a_base_again(recorded: Workspace, tmp_path: Path) -> None:
    prepare(recorded, write_params(recorded.root, "auto", pieces=3))
    tokens = Base.prepared(recorded).tokenizer().get_number_tokens()
    pretend_to_train(recorded)
    folder = recorded.base / "anna"
    out = tmp_path / "anna"
    list(export_lines(recorded, Request("phase1", out, None)))

    config = XttsConfig()
    config.load_json(str(out / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=out)  # strictly
    assert model.gpt.text_embedding.num_embeddings == tokens == config.model_args.gpt_number_text_tokens
    assert model.tokenizer.encode(TEXT, "en") == Base.prepared(recorded).tokenizer().encode(TEXT, "en")
    assert 1 not in model.tokenizer.encode(TEXT, "en")

    shutil.copytree(out, folder)
    for name in ("dvae.pth", "mel_stats.pth"):
        link_or_copy(recorded.base / "small" / name, folder / name)
    prepare(recorded, write_params(recorded.root, None, base="../base/anna"))
    again = report_of(recorded)
    assert again["clips"]["rejected"] == 0
    assert again["vocabulary"] == {}
    base = Base.prepared(recorded)
    assert base.tokenizer().get_number_tokens() == tokens
    assert torch.equal(base.gpt().text_embedding.weight, model.gpt.text_embedding.weight)
    shutil.rmtree(folder)
