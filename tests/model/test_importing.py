"""Published bases: what is wrong with their files is said at once, and nothing in them is run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import cut
from making.bases import SECOND_NAMES, published_weights
from opening import Malicious, open_base, refused, replace, write_text
from safetensors.torch import load_file

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.model import published as published_module
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.importing import import_base
from xtts_finetune.model.parts import find_parts
from xtts_finetune.model.published import OPTIONAL, PUBLISHED, SIZES


def is_of_gpt(name: str) -> bool:
    """Not a second name."""
    return name.startswith("gpt.") and not name.startswith(SECOND_NAMES)


def test_an_imported_base_has_the_published_weights(published: Path, imported: Workspace) -> None:
    base = Base(imported.prepared / "base", imported.root)
    state = published_weights(published)
    gpt = base.gpt().state_dict()
    assert all(torch.equal(value, state[f"gpt.{name}"]) for name, value in gpt.items())
    vocoder = load_file(base.folder / "vocoder.safetensors")
    assert all(torch.equal(value, state[f"hifigan_decoder.{name}"]) for name, value in vocoder.items())
    assert torch.equal(base.mel_stats(), state["mel_stats"])
    dvae = torch.load(published / "dvae.pth", weights_only=True)
    assert all(torch.equal(value, dvae[name]) for name, value in base.codec().state_dict().items())
    assert not base.codec().training
    # The large file is not copied, and the workspace can be moved.
    count = sum(value.numel() for name, value in state.items() if is_of_gpt(name))
    digest = sha256_file(published / "model.pth")
    told = base.info["gpt"]
    assert told == {"path": "base/small/model.pth", "sha256": digest, **base.sizes()}
    assert base.sizes()["parameters"] == count
    assert base.sizes()["shapes"] == {name: list(value.shape) for name, value in gpt.items()}
    assert base.info["vocoder"] == "hifigan"


def test_all_missing_files_are_named_at_once(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find_parts(source / "nowhere", True, Workspace(tmp_path))
    assert [problem.what for problem in error.value.problems] == [f"lacks {', '.join(PUBLISHED)}"]
    assert "xtts-finetune base fetch --accept-licence" in str(error.value)
    assert "non-commercial" in str(error.value)
    (source / "model.pth").unlink()
    (source / "vocab.json").unlink()
    (source / "vocab.json").mkdir()
    [problem] = refused(source, tmp_path).problems
    assert problem.what.startswith("lacks vocab.json, weights (model.pth, best_model.pth or checkpoint_N.pth")
    assert "base fetch" not in str(problem)


def test_pinned_files_are_the_published_ones(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the published file") as error:
        find_parts(source, True, Workspace(tmp_path))
    assert len(error.value.problems) == len(PUBLISHED)
    assert "base: <their folder>" in str(error.value)


@pytest.mark.parametrize("pinned", [True, False])
def test_the_large_file_is_read_once_for_its_checksum(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    digests = {name: sha256_file(source / name) for name in PUBLISHED}
    monkeypatch.setattr(published_module, "PUBLISHED", digests)
    summed: list[str] = []

    def spy(path: Path) -> str:
        summed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr("xtts_finetune.core.digests.sha256_file", spy)
    (tmp_path / "base").mkdir()
    info = import_base(source, tmp_path / "base", tmp_path, pinned)
    assert (info["gpt"]["path"], info["gpt"]["sha256"]) == ("source/model.pth", digests["model.pth"])
    assert summed == (list(digests) if pinned else ["model.pth"])


def test_pinned_digests_are_those_of_the_design() -> None:
    assert len(PUBLISHED) == 5
    assert SIZES.keys() == PUBLISHED.keys() | OPTIONAL.keys()
    assert sum(SIZES.values()) == 2_086_564_978
    assert OPTIONAL["speakers_xtts.pth"] == "f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b"
    assert PUBLISHED["model.pth"] == "c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187"
    assert PUBLISHED["dvae.pth"] == "b29bc227d410d4991e0a8c09b858f77415013eeb9fba9650258e96095557d97a"
    assert PUBLISHED["mel_stats.pth"] == "1f69422a8a8f344c4fca2f0c6b8d41d2151d6615b7321e48e6bb15ae949b119c"


def test_coqui_trained_checkpoints_load(source: Path, tmp_path: Path) -> None:
    """Coqui's trainer wraps the model once more, keeps DVAE and mel buffers, and other things beside the weights."""
    state = published_weights(source)
    trained = {f"xtts.{name}": value for name, value in state.items()}
    trained |= {"dvae.codebook.embed": torch.zeros(2), "torch_mel_spectrogram_dvae.mel_norms": torch.zeros(80)}
    replace(source / "model.pth", {"model": trained, "config": {"x": 1}, "step": 7, "optimizer": {}})
    base = open_base(source, tmp_path)
    assert all(torch.equal(value, state[f"gpt.{name}"]) for name, value in base.gpt().state_dict().items())


def test_second_names_of_inference_are_left_out(source: Path, tmp_path: Path) -> None:
    state = published_weights(source)
    assert {"gpt.gpt.wte.weight", "gpt.gpt_inference.lm_head.1.weight"} <= set(state)
    assert "mel_head.weight" in open_base(source, tmp_path).gpt().state_dict()


def test_the_legacy_format_of_torch_loads(source: Path, tmp_path: Path) -> None:
    state = torch.load(source / "dvae.pth", weights_only=True)
    (source / "dvae.pth").unlink()
    torch.save(state, source / "dvae.pth", _use_new_zipfile_serialization=False)
    open_base(source, tmp_path).codec()


@pytest.mark.parametrize("name", ["model.pth", "dvae.pth", "mel_stats.pth"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_code_is_refused(source: Path, tmp_path: Path, name: str, plain: bool) -> None:
    content = {"model": Malicious(tmp_path / "owned")}
    replace(source / name, content)
    if plain:
        (source / name).write_bytes(pickle.dumps(content, protocol=2))
    error = refused(source, tmp_path)
    assert f"{name}\n      is not plain weights, and refused" in str(error)
    assert "weights_only" not in str(error)  # torch advises switching the protection off
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        cut,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"),
        lambda path: path.write_bytes(bytes(range(256)) * 9),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"model": {"gpt.x": 3}}, path),
        lambda path: torch.save({"model": [torch.zeros(1)]}, path),
    ],
    ids=["half", "cut short", "empty", "a web page", "an LFS pointer", "garbage", "a list", "numbers", "no dict"],
)
def test_damaged_checkpoints(source: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for name in ("model.pth", "mel_stats.pth"):
        link, content = source / name, (source / "mel_stats.pth").read_bytes()
        link.unlink()
        link.write_bytes(content)
        damage(link)
    with pytest.raises(UserError, match=r"model\.pth"):
        xtts.load_published_checkpoint(source / "model.pth")
    error = refused(source, tmp_path)
    assert "mel_stats.pth" in error.problems[0].where
    assert len(str(error)) < 1500


@pytest.mark.parametrize("content", [torch.zeros(79), torch.zeros(80, 1), [0.0] * 80, {"mel": torch.zeros(80)}])
def test_mel_stats_are_80_values(source: Path, tmp_path: Path, content: Any) -> None:
    replace(source / "mel_stats.pth", content)
    assert "mel_stats.pth\n      does not hold a tensor of 80 values" in str(refused(source, tmp_path))


def test_weights_of_another_size_name_every_tensor(source: Path, tmp_path: Path) -> None:
    config = read_json(source / "config.json")
    config["model_args"]["gpt_layers"] = 30
    write_text(source / "config.json", json.dumps(config))
    state = published_weights(source)
    del state["gpt.mel_head.bias"]
    state["gpt.of_another_model"] = torch.zeros(3)
    replace(source / "model.pth", {"model": state})
    missing, unknown = refused(source, tmp_path).problems
    assert missing.where == unknown.where == str(source / "model.pth")
    assert "lacks 313 tensors: " in missing.what  # 26 layers of 12, and the one above
    assert "mel_head.bias; gpt.h.4 … gpt.h.29: 12 tensors each, as gpt.h.4.ln_1.weight" in missing.what
    assert "1 tensor that the model does not know: of_another_model" in unknown.what
    assert "of one and the same model" in missing.remedy


def test_every_part_that_does_not_fit_is_named_at_once(source: Path, tmp_path: Path) -> None:
    state = published_weights(source)
    state["gpt.final_norm.weight"] = torch.zeros(7)
    vocoder = [name for name in state if name.startswith("hifigan_decoder.speaker_encoder")]
    for name in vocoder:
        del state[name]
    replace(source / "model.pth", {"model": state})
    replace(source / "dvae.pth", xtts.build_dvae(1024, 64, 1, 128).state_dict())
    replace(source / "mel_stats.pth", torch.zeros(79))
    said = str(refused(source, tmp_path))
    assert "1 tensor of another shape: final_norm.weight (7, not 256)" in said
    counters = [name for name in vocoder if name.endswith("num_batches_tracked")]  # which torch makes up
    assert f"lacks {len(vocoder) - len(counters)} tensors: " in said
    assert "mel_stats.pth\n      does not hold a tensor of 80 values" in said
    assert f"{source / 'dvae.pth'}\n      lacks " in said


def test_a_vocabulary_of_another_size(source: Path, tmp_path: Path) -> None:
    vocab = read_json(source / "vocab.json")
    vocab["model"]["vocab"]["zzz"] = len(vocab["model"]["vocab"])
    write_text(source / "vocab.json", json.dumps(vocab))
    [problem] = refused(source, tmp_path).problems
    of = ("text_embedding.weight is 320 × 256, not 321 × 256", "text_head.weight is 320 × 256, not 321 × 256")
    assert problem.what == f"is of another vocabulary: {'; '.join(of)}; text_head.bias is 320, not 321"
    assert problem.remedy == "use the vocab.json that it was trained with"


def test_another_dvae(source: Path, tmp_path: Path) -> None:
    replace(source / "dvae.pth", xtts.build_dvae(1024, 64, 1, 128).state_dict())
    assert "dvae.pth" in refused(source, tmp_path).problems[0].where


@pytest.mark.parametrize(
    "content",
    ["", "not json", "[]", "{}", '{"model_args": []}', '{"model_args": {"gpt_layers": 4}}', '{"model_args": null}'],
)
def test_bad_config(source: Path, tmp_path: Path, content: str) -> None:
    (source / "config.json").unlink()
    (source / "config.json").write_text(content)
    assert "config.json" in refused(source, tmp_path).problems[0].where


def test_a_config_with_a_wrong_type_names_it(source: Path, tmp_path: Path) -> None:
    config = read_json(source / "config.json")
    config["model_args"]["gpt_n_heads"] = "4"
    del config["model_args"]["gpt_code_stride_len"]
    (source / "config.json").unlink()
    write_json(source / "config.json", config)
    assert "lacks usable model_args: gpt_n_heads, gpt_code_stride_len" in str(refused(source, tmp_path))


def test_a_model_without_a_perceiver(source: Path, tmp_path: Path) -> None:
    config = read_json(source / "config.json")
    config["model_args"]["gpt_use_perceiver_resampler"] = False
    (source / "config.json").unlink()
    write_json(source / "config.json", config)
    assert "without gpt_use_perceiver_resampler" in str(refused(source, tmp_path))


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"model": {"type": "BPE", "vocab": [1]}}'])
def test_bad_vocabulary(source: Path, tmp_path: Path, content: str) -> None:
    (source / "vocab.json").unlink()
    (source / "vocab.json").write_text(content)
    assert "vocab.json\n      is not a BPE vocabulary" in str(refused(source, tmp_path))


def test_a_vocabulary_without_the_special_tokens(source: Path, tmp_path: Path) -> None:
    vocab = json.loads((source / "vocab.json").read_text().replace("[START]", "[BEGIN]"))
    (source / "vocab.json").unlink()
    write_json(source / "vocab.json", vocab)
    assert "lacks [START]" in str(refused(source, tmp_path))


def test_a_base_outside_the_workspace(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "workspace" / "prepared" / "base"
    folder.mkdir(parents=True)
    info = import_base(source, folder, tmp_path / "workspace", pinned=False)
    assert info["gpt"]["path"] == (source / "model.pth").as_posix()
    write_json(folder / "base.json", info)
    Base(folder, tmp_path / "workspace").gpt()
    shutil.rmtree(folder)
