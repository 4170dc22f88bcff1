"""A run folder that Coqui's own trainer wrote: its classes, its way of saving."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from making.bases import published_weights
from opening import open_base
from safetensors.torch import load_file

from xtts_finetune.core.files import link_or_copy
from xtts_finetune.model import mini, xtts

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(source: Path, tmp_path: Path) -> Any:
    """GPTTrainer after a step of AdamW, and the optimizer."""
    model = tmp_path / "read once.pth"
    shutil.copy(source / "model.pth", model)
    threads = torch.get_num_threads()
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig
    from TTS.tts.models.xtts import XttsAudioConfig

    torch.set_num_threads(threads)  # the import sets it to 1
    shape = {name: value for name, value in xtts.default_args(**mini.GPT_SHAPE).items() if name.startswith("gpt_")}
    args = GPTArgs(
        mel_norm_file=str(source / "mel_stats.pth"),
        dvae_checkpoint=str(source / "dvae.pth"),
        xtts_checkpoint=str(model),
        tokenizer_file=str(source / "vocab.json"),
        decoder_input_dim=mini.GPT_SHAPE["decoder_input_dim"],
        **shape,
    )
    audio = XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000)
    trainer = GPTTrainer(GPTTrainerConfig(model_args=args, audio=audio))
    optimizer = torch.optim.AdamW(trainer.xtts.gpt.parameters(), lr=1e-3)
    for parameter in trainer.xtts.gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return trainer, optimizer


def test_it_is_a_base_of_its_own(trained: Any, source: Path, tmp_path: Path) -> None:
    from trainer.io import save_checkpoint

    trainer, optimizer = trained
    folder = tmp_path / "GPT_XTTS_FT"
    folder.mkdir()
    for step in (100, 200):
        save_checkpoint(trainer.config, trainer, folder, current_step=step, epoch=1, optimizer=[optimizer])
    trainer.config.save_json(str(folder / "config.json"))
    link_or_copy(source / "vocab.json", folder / "vocab.json")
    base = open_base(folder, tmp_path)
    assert base.info["gpt"]["path"] == "GPT_XTTS_FT/checkpoint_200.pth"
    gpt, own = base.gpt().state_dict(), trainer.xtts.gpt.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in gpt.items())
    before = published_weights(source)
    assert not torch.equal(gpt["final_norm.weight"], before["gpt.final_norm.weight"])
    assert torch.equal(base.mel_stats(), before["mel_stats"])
    assert all(torch.equal(value, trainer.dvae.state_dict()[name]) for name, value in base.codec().state_dict().items())
    vocoder, theirs = load_file(base.folder / "vocoder.safetensors"), trainer.xtts.hifigan_decoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in vocoder.items())
