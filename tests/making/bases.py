"""Real networks of random weights: the tiny base, and a stand-in for XTTS v2's published files.

Importing this takes the seconds that Coqui's classes take.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.models.xtts import Xtts, XttsArgs, _legacy_safe_globals

from making.prepared import TEXT
from making.recordings import sample_lines
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import BASE_INFO, CODEC, CONFIG, MEL_STATS, VOCABULARY, Workspace
from xtts_finetune.model import mini, xtts

TINY: dict[str, Any] = {"gpt_layers": 1, "gpt_n_model_channels": 64, "gpt_n_heads": 2, "decoder_input_dim": 64}
TEXT_TOKENS = 6681  # of XTTS v2's vocabulary
SECOND_NAMES = ("gpt.gpt_inference.", "gpt.gpt.wte.")  # of the GPT's tensors in a published model.pth, for inference


def write_tiny(workspace: Workspace, **shape: Any) -> int:
    """prepared/base/ with a GPT of one layer and a DVAE, TINY but for `shape`; how many text tokens there are."""
    base = workspace.prepared / "base"
    base.mkdir(parents=True)
    mini.train_vocabulary([(TEXT, "en")], base / VOCABULARY)
    tokenizer = xtts.build_tokenizer(base / VOCABULARY)
    args = xtts.default_args(**{**TINY, **shape})
    write_json(base / CONFIG, xtts.default_config(args))
    torch.manual_seed(0)
    model = xtts.build_gpt(args, tokenizer)
    save_file(model.state_dict(), base / "gpt.safetensors")
    save_file(xtts.build_dvae(**mini.CODEC_SHAPE).state_dict(), base / CODEC)
    save_file({"mel_stats": torch.full((80,), 5.0)}, base / MEL_STATS)
    gpt = {"path": "prepared/base/gpt.safetensors", "sha256": sha256_file(base / "gpt.safetensors")}
    gpt |= xtts.sizes(model)
    write_json(base / BASE_INFO, {"vocoder": "griffin_lim", "codec": mini.CODEC_SHAPE, "gpt": gpt})
    tokens: int = tokenizer.get_number_tokens()
    return tokens


def write_published(folder: Path, recordings: Sequence[Path], true_size: bool = False) -> Path:
    """A stand-in for XTTS v2's published files: its names and formats, written by Coqui's own classes; a small GPT.

    Or one of its true size: 441,018,563 random weights.

    The DVAE has its true shape, which Coqui's GPTTrainer insists on, and a codebook that gives these recordings many
    different codes. model.pth has the GPT's second names for inference and, beside the weights, a pickled config of
    classes at the place where they were when XTTS v2 was published.
    """
    folder.mkdir(parents=True)
    mini.train_vocabulary([(line.split("|")[2], "en") for line in sample_lines()], folder / "vocab.json")
    if true_size:
        _fill_up(folder / "vocab.json", TEXT_TOKENS)
    mels = [xtts.build_codec_mel(None)(_sound(recording)[None]) for recording in recordings]
    stats = torch.cat(mels, dim=2)[0].abs().mean(1)
    torch.save(stats, folder / "mel_stats.pth")
    torch.manual_seed(1)
    torch.save(_dvae([mel / stats[None, :, None] for mel in mels]).state_dict(), folder / "dvae.pth")

    config = XttsConfig(model_args=XttsArgs(**xtts.default_args(**({} if true_size else mini.GPT_SHAPE))))
    write_json(folder / "config.json", config.to_dict())
    model = Xtts(config)
    model.tokenizer = xtts.build_tokenizer(folder / "vocab.json")
    model.init_models()
    model.mel_stats.copy_(stats)
    model.gpt.init_gpt_for_inference()
    with _legacy_safe_globals():
        torch.save({"model": model.state_dict(), "config": config, "epoch": 1}, folder / "model.pth")
    return folder


def _fill_up(vocabulary: Path, tokens: int) -> None:
    """With tokens that no text has, until there are so many."""
    content = read_json(vocabulary)
    words = content["model"]["vocab"]
    words |= {f"<unused {number}>": number for number in range(len(words), tokens)}
    write_json(vocabulary, content)


def published_weights(folder: Path) -> dict[str, Tensor]:
    """What `write_published` put into model.pth, under every name."""
    weights: dict[str, Tensor] = torch.load(folder / "model.pth", weights_only=False)["model"]
    return weights


def _sound(recording: Path) -> Tensor:
    return torch.from_numpy(soundfile.read(recording, dtype="float32")[0])


def _dvae(mels: list[Tensor]) -> DiscreteVAE:
    """As GPTTrainer builds it; its codes are vectors of these mels."""
    dvae = DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=1024,
        codebook_dim=512,
        hidden_dim=512,
        num_resnet_blocks=3,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    ).eval()
    with torch.no_grad():
        vectors = torch.cat([dvae.encoder(mel)[0].T for mel in mels])
        dvae.codebook.embed.copy_(vectors[torch.randint(len(vectors), (1024,))].T)
    return dvae
