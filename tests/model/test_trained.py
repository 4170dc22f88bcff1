"""Parts of a network that are trained, and what is needed to make it whole again."""

from pathlib import Path

import pytest
import torch
from making.bases import write_tiny
from making.batches import random_batch
from making.params import LORA, PARTS, make_params
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import BASE_INFO, Workspace
from xtts_finetune.core.phase_params import Trained
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.forward import Settings, hidden_states
from xtts_finetune.model.header import Header
from xtts_finetune.model.trained import ALL, trained_state
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training.packing import SpecialTokens, pack

ADAPTERS = make_params(**LORA).train_phase1.trained
WITH_HEAD = ADAPTERS.model_copy(update={"parts": ["mel_head"]})
SOME = make_params(**PARTS).train_phase1.trained
each = pytest.mark.parametrize("trained", [ADAPTERS, WITH_HEAD, SOME], ids=["adapters", "with a head", "parts"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    workspace = Workspace(tmp_path_factory.mktemp("tiny"))
    write_tiny(workspace, gpt_layers=2)
    return Base.prepared(workspace)


def to_train(base: Base, trained: Trained, weights: Path | None = None, seed: int = 1) -> GPT:
    return base.gpt_to_train(weights, trained, 0.1, seed)


def changed(gpt: GPT) -> GPT:
    """As if it had been trained."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return gpt


def saved(base: Base, gpt: GPT, trained: Trained, file: Path) -> Path:
    header = base.header(trained)
    save_file(trained_state(gpt), file, metadata=header.entries() if header else None)
    return file


@torch.no_grad()
def logits(gpt: GPT, base: Base) -> list[Tensor]:
    gpt.eval()
    micro = pack(random_batch(3), SpecialTokens.of(gpt), False, padding_free=False)
    prompt = xtts.build_conditioning_mel(base.mel_stats())(micro.packed.conditioning)
    text, codes = hidden_states(gpt, prompt, micro.packed, Settings())
    return [gpt.text_head(text), gpt.mel_head(codes)]


@each
def test_only_what_is_asked_for_is_trained(base: Base, trained: Trained) -> None:
    gpt = to_train(base, trained)
    own = base.gpt().state_dict()
    new = {name for name in trained_state(gpt) if "lora_" in name}
    assert bool(new) == (trained.adapters is not None)
    in_full = {name for name in own if name in trained_state(gpt)}
    parts = tuple(f"{part}." for part in trained.parts or ())
    assert in_full == {name for name in own if parts and name.startswith(parts)}
    count = sum(value.numel() for value in trained_state(gpt).values())
    assert count == trained.count(base.sizes()["shapes"]) < 0.5 * base.sizes()["parameters"]


def test_all_of_it_is_as_without_a_header(base: Base) -> None:
    assert base.header(ALL) is None
    gpt = to_train(base, ALL)
    assert trained_state(gpt).keys() == gpt.state_dict().keys() == base.sizes()["shapes"].keys()
    assert ALL.count(base.sizes()["shapes"]) == base.sizes()["parameters"]


@each
def test_it_begins_as_the_base(base: Base, trained: Trained) -> None:
    for ours, theirs in zip(logits(to_train(base, trained), base), logits(base.gpt(), base), strict=True):
        assert torch.equal(ours, theirs)


@each
def test_made_whole_it_says_the_same(base: Base, trained: Trained, tmp_path: Path) -> None:
    """Within 1e-5 of the adapters' own way, and with the names that Coqui's class has."""
    gpt = changed(to_train(base, trained))
    whole = base.gpt(saved(base, gpt, trained, tmp_path / "model.safetensors"))
    assert whole.state_dict().keys() == base.gpt().state_dict().keys()
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert not torch.equal(logits(whole, base)[1], logits(base.gpt(), base)[1])
    for ours, theirs in zip(logits(whole, base), logits(gpt, base), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@each
def test_training_goes_on_with_what_was_trained(base: Base, trained: Trained, tmp_path: Path) -> None:
    gpt = changed(to_train(base, trained))
    file = saved(base, gpt, trained, tmp_path / "model.safetensors")
    again = to_train(base, trained, file, seed=2)
    assert again.state_dict().keys() == gpt.state_dict().keys()
    assert all(torch.equal(value, gpt.state_dict()[name]) for name, value in again.state_dict().items())
    everything = to_train(base, ALL, file)
    assert everything.state_dict().keys() == base.gpt().state_dict().keys()
    torch.testing.assert_close(logits(everything, base)[1], logits(gpt, base)[1], atol=1e-5, rtol=0)


def test_the_first_adapters_are_the_seeds(base: Base) -> None:
    one, same, other = (trained_state(to_train(base, ADAPTERS, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_the_header_of_a_file_is_the_same_bytes_every_time(base: Base, tmp_path: Path) -> None:
    gpt = to_train(base, WITH_HEAD)
    written = {saved(base, gpt, WITH_HEAD, tmp_path / str(number)).read_bytes() for number in range(5)}
    assert len(written) == 1
    assert Header.of_file(tmp_path / "0") == base.header(WITH_HEAD)


def test_beside_another_base_it_is_refused(base: Base, tmp_path: Path) -> None:
    file = saved(base, to_train(base, ADAPTERS), ADAPTERS, tmp_path / "model.safetensors")
    workspace = Workspace(tmp_path / "other")
    write_tiny(workspace, gpt_layers=2)
    info = read_json(workspace.prepared / "base" / BASE_INFO)
    other = base.gpt().state_dict()
    other["mel_head.bias"] += 1
    save_file(other, workspace.root / info["gpt"]["path"])
    info["gpt"]["sha256"] = sha256_file(workspace.root / info["gpt"]["path"])
    write_json(workspace.prepared / "base" / BASE_INFO, info)
    with pytest.raises(UserError, match="was trained beside the weights"):
        Base.prepared(workspace).gpt(file)


def test_tensors_that_do_not_belong_are_refused(base: Base, tmp_path: Path) -> None:
    header = base.header(SOME)
    assert header
    whole = saved(base, to_train(base, SOME), SOME, tmp_path / "whole")
    tensors = load_file(whole)
    frozen = base.gpt().state_dict()["text_head.bias"]
    for change in ({"mel_head.bias": None}, {"text_head.bias": frozen}, {"mel_head.bias": torch.zeros(3)}):
        file = tmp_path / "changed"
        kept = {name: value for name, value in {**tensors, **change}.items() if value is not None}
        save_file(kept, file, metadata=header.entries())
        with pytest.raises(UserError, match="do not fit the model"):
            base.gpt(file)


@each
def test_nothing_is_frozen_but_the_bases_own(base: Base, trained: Trained, tmp_path: Path) -> None:
    """Else whoever reads the file would put what was trained beside other weights than it was trained with."""
    whole = saved(base, changed(to_train(base, ALL)), ALL, tmp_path / "whole")
    with pytest.raises(UserError, match=r"is not what params\.yaml has phase 2 go on with"):
        to_train(base, trained, whole)


def test_a_file_that_is_none(base: Base, tmp_path: Path) -> None:
    for content in (b"", b"nonsense" * 9):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            base.gpt(tmp_path / "model.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"trained": '{"trained": 5}'})
    with pytest.raises(UserError, match="cannot be read"):
        base.gpt(tmp_path / "model.safetensors")


def test_a_part_that_the_base_lacks(base: Base) -> None:
    with pytest.raises(UserError, match=r"of 2 layers, has no gpt\.h\.7"):
        to_train(base, Trained(adapters=None, parts=["mel_head", "gpt.h.7"]))
