"""A stand-in for XTTS v2's published files: their formats and names, written by Coqui's own classes; random weights."""

import json
from pathlib import Path

LAYERS, CHANNELS, HEADS = 2, 64, 2


def write_published_base(folder: Path, transcripts: list[str]) -> None:
    """config.json, vocab.json, mel_stats.pth, dvae.pth and model.pth, of a GPT of 2 layers × 64."""
    import torch
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.layers.xtts.dvae import DiscreteVAE
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts, XttsArgs, _legacy_safe_globals

    folder.mkdir(parents=True)
    _write_vocabulary(folder / "vocab.json", transcripts)
    torch.manual_seed(1)
    stats = torch.full((80,), 5.0)
    torch.save(stats, folder / "mel_stats.pth")
    codec = DiscreteVAE(
        channels=80, normalization=None, positional_dims=1, num_tokens=1024, codebook_dim=512, hidden_dim=512,
        num_resnet_blocks=3, kernel_size=3, num_layers=2, use_transposed_convs=False,
    )  # fmt: skip
    torch.save(codec.state_dict(), folder / "dvae.pth")

    config = XttsConfig(
        model_args=XttsArgs(
            gpt_layers=LAYERS, gpt_n_model_channels=CHANNELS, gpt_n_heads=HEADS, decoder_input_dim=CHANNELS,
            gpt_num_audio_tokens=1026, gpt_start_audio_token=1024, gpt_stop_audio_token=1025,
            gpt_use_perceiver_resampler=True,
        )
    )  # fmt: skip
    model = Xtts(config)
    model.tokenizer = VoiceBpeTokenizer(str(folder / "vocab.json"))
    model.init_models()
    # As it is published: with the GPT's second names for inference, and a pickled config of classes at their old place.
    model.gpt.init_gpt_for_inference()
    with _legacy_safe_globals():
        torch.save({"model": model.state_dict(), "config": config, "epoch": 1}, folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")


def _write_vocabulary(path: Path, transcripts: list[str]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    alphabet = list("!\"'(),-./:;?abcdefghijklmnopqrstuvwxyz")
    special = ["[STOP]", "[UNK]", "[SPACE]", "[en]", "[START]"]
    trainer = BpeTrainer(vocab_size=200, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text.lower() for text in transcripts), trainer)
    path.write_text(tokenizer.to_str(), encoding="utf-8")
