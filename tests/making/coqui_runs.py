"""Runs of Coqui's own trainer, by its classes and its way of saving."""

import shutil
from pathlib import Path
from typing import Any

import torch

from xtts_finetune.core.files import link_or_copy
from xtts_finetune.model import mini, xtts


def gpt_trainer(source: Path, weights: Path) -> Any:
    """Coqui's GPTTrainer on the weights in a file, and the codec and vocabulary beside a base's in `source`."""
    threads = torch.get_num_threads()
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig
    from TTS.tts.models.xtts import XttsAudioConfig

    torch.set_num_threads(threads)  # the import sets it to 1
    shape = {name: value for name, value in xtts.default_args(**mini.GPT_SHAPE).items() if name.startswith("gpt_")}
    args = GPTArgs(
        mel_norm_file=str(source / "mel_stats.pth"),
        dvae_checkpoint=str(source / "dvae.pth"),
        xtts_checkpoint=str(weights),
        tokenizer_file=str(source / "vocab.json"),
        decoder_input_dim=mini.GPT_SHAPE["decoder_input_dim"],
        **shape,
    )
    audio = XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000)
    return GPTTrainer(GPTTrainerConfig(model_args=args, audio=audio))


def write_run(source: Path, folder: Path, steps: tuple[int, ...]) -> Any:
    """A step of AdamW on the base in `source`, saved in `folder` as the trainer does; the GPTTrainer."""
    from trainer.io import save_checkpoint

    model = folder.with_name("read once.pth")
    shutil.copy(source / "model.pth", model)
    trainer = gpt_trainer(source, model)
    model.unlink()
    optimizer = torch.optim.AdamW(trainer.xtts.gpt.parameters(), lr=1e-3)
    for parameter in trainer.xtts.gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    folder.mkdir()
    for step in steps:
        save_checkpoint(trainer.config, trainer, folder, current_step=step, epoch=1, optimizer=[optimizer])
    trainer.config.save_json(str(folder / "config.json"))
    link_or_copy(source / "vocab.json", folder / "vocab.json")
    return trainer
