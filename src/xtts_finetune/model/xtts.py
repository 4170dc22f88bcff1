"""The networks of XTTS v2, built by Coqui's own classes. The only module that imports TTS: others take them from here.

Reference: TTS/tts/models/xtts.py, TTS/tts/layers/xtts/{gpt,dvae,tokenizer}.py and
TTS/tts/layers/xtts/trainer/gpt_trainer.py of coqui-tts 0.28.0.
"""

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram as TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE as DiscreteVAE
from TTS.tts.layers.xtts.gpt import GPT as GPT
from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer as VoiceBpeTokenizer
from TTS.tts.models.xtts import _legacy_safe_globals

from xtts_finetune.core.constants import CODE_STRIDE, LANGUAGES, MAX_AUDIO_CODES, MAX_TEXT_TOKENS, SAMPLE_RATE
from xtts_finetune.core.errors import Problem, UserError

MEL_CHANNELS = 80
UNKNOWN_TOKEN = 1  # [UNK] of every XTTS vocabulary

# Coqui warns at every text above its soft limit of characters; prepare has a limit of its own, in tokens.
logging.getLogger("TTS.tts.layers.xtts.tokenizer").setLevel(logging.ERROR)
# Transformers warns of GPT-2's own token ids, which XTTS replaces.
logging.getLogger("transformers.configuration_utils").setLevel(logging.ERROR)


def build_tokenizer(vocab: Path) -> VoiceBpeTokenizer:
    return VoiceBpeTokenizer(vocab_file=str(vocab))


def encode_text(tokenizer: VoiceBpeTokenizer, text: str, language: str) -> list[int]:
    """BPE tokens of `text`, cleaned and tagged with its language.

    Raises:
        ValueError: the language is unknown or cannot be cleaned here, or the vocabulary lacks its token or a
            character; the message names it.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of XTTS v2's: {', '.join(LANGUAGES)}")
    if tokenizer.tokenizer.token_to_id(language_tag(language)) is None:
        raise ValueError(f"the vocabulary lacks the language's own token, {language_tag(language)}")
    with _cleaning(language):
        tokens: list[int] = tokenizer.encode(text, language)
    if UNKNOWN_TOKEN in tokens:
        lacking = sorted({c for c in clean_text(tokenizer, text, language) if UNKNOWN_TOKEN in spell(tokenizer, c)})
        raise ValueError(f"the vocabulary lacks {' '.join(map(repr, lacking))}")
    return tokens


def clean_text(tokenizer: VoiceBpeTokenizer, text: str, language: str) -> str:
    """`text` as the BPE sees it: lower case, numbers and abbreviations written out.

    Raises:
        ValueError: Coqui's cleaner cannot do it: Chinese and Japanese need further packages, Hindi lacks numbers.
    """
    with _cleaning(language):
        cleaned: str = tokenizer.preprocess_text(text, language.split("-")[0])
    return cleaned


@contextmanager
def _cleaning(language: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, NotImplementedError) as error:
        reason = str(error) or "it has a number, which Coqui cannot write out in this language"
        raise ValueError(f"text in {language!r} cannot be cleaned: {reason}") from None


def language_tag(language: str) -> str:
    """What VoiceBpeTokenizer puts before a text of this language."""
    return f"[{language}]"


def spell(tokenizer: VoiceBpeTokenizer, cleaned: str) -> list[int]:
    """Tokens of a cleaned text, or a part of one, without its language's."""
    ids: list[int] = tokenizer.tokenizer.encode(cleaned.replace(" ", "[SPACE]")).ids
    return ids


def build_gpt(args: dict[str, Any], tokenizer: VoiceBpeTokenizer) -> GPT:
    """The autoregressive model, freshly initialised from torch's global seed.

    Args:
        args: `model_args` of an XTTS config.json (gpt_layers, gpt_n_model_channels, gpt_n_heads, …).
        tokenizer: decides the number of text tokens, as Xtts.init_models does.
    """
    return GPT(
        layers=args["gpt_layers"],
        model_dim=args["gpt_n_model_channels"],
        start_text_token=tokenizer.tokenizer.token_to_id("[START]"),
        stop_text_token=tokenizer.tokenizer.token_to_id("[STOP]"),
        heads=args["gpt_n_heads"],
        max_text_tokens=args["gpt_max_text_tokens"],
        max_mel_tokens=args["gpt_max_audio_tokens"],
        max_prompt_tokens=args["gpt_max_prompt_tokens"],
        number_text_tokens=tokenizer.get_number_tokens(),
        num_audio_tokens=args["gpt_num_audio_tokens"],
        start_audio_token=args["gpt_start_audio_token"],
        stop_audio_token=args["gpt_stop_audio_token"],
        use_perceiver_resampler=args["gpt_use_perceiver_resampler"],
        code_stride_len=args["gpt_code_stride_len"],
    )


def build_gpt_to_load(args: dict[str, Any], tokenizer: VoiceBpeTokenizer) -> GPT:
    """As `build_gpt`, with whatever was in memory as weights: of XTTS v2's, drawing 441 million takes 5 s of a core."""
    with no_init_weights():
        return build_gpt(args, tokenizer)


def sizes(gpt: GPT) -> dict[str, Any]:
    """Of a network, as base.json tells it: how many `parameters` (441,018,563 of XTTS v2), and all their `shapes`."""
    shapes = {name: list(parameter.shape) for name, parameter in gpt.named_parameters()}
    return {"parameters": sum(map(prod, shapes.values())), "shapes": shapes}


def default_args(**changes: Any) -> dict[str, Any]:
    """`model_args` of XTTS v2 as published, with `changes`."""
    published = XttsArgs(
        gpt_max_audio_tokens=MAX_AUDIO_CODES,
        gpt_max_text_tokens=MAX_TEXT_TOKENS,
        gpt_num_audio_tokens=1026,
        gpt_start_audio_token=1024,
        gpt_stop_audio_token=1025,
        gpt_code_stride_len=CODE_STRIDE,
        gpt_use_perceiver_resampler=True,
    )
    return {**published.to_dict(), **changes}


def default_config(args: dict[str, Any]) -> dict[str, Any]:
    """A config.json of the published shape around `args`."""
    config: dict[str, Any] = XttsConfig().to_dict()
    config["model_args"] = args
    return config


def build_dvae(codes: int, hidden_dim: int, resnet_blocks: int, codebook_dim: int) -> DiscreteVAE:
    """The audio codec: mel (b, 80, frames) ↔ codes (b, ⌈frames / 4⌉). Settings as in GPTTrainer.__init__."""
    dvae = DiscreteVAE(
        channels=MEL_CHANNELS,
        normalization=None,
        positional_dims=1,
        num_tokens=codes,
        codebook_dim=codebook_dim,
        hidden_dim=hidden_dim,
        num_resnet_blocks=resnet_blocks,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )
    dvae.discrete_loss = nn.Identity()  # never called; its buffers would only be stored
    return dvae


def encode_mel(dvae: DiscreteVAE, mel: Tensor) -> Tensor:
    """(b, ⌈frames / 4⌉) codes of a mel (b, 80, frames): those of DiscreteVAE.get_codebook_indices, bit for bit.

    Without what that computes beside them: one-hot codes, the quantised vectors and their error. Rows of a batch must
    not be filled up: the filling would change the codes near a clip's end.
    """
    vectors = dvae.encoder(mel).transpose(1, 2).flatten(0, 1)  # (b × codes, codebook_dim)
    centres = dvae.codebook.embed  # (codebook_dim, codes)
    # In the order of Quantize.forward: another one rounds differently, and of two centres as near takes the other.
    distances = vectors.pow(2).sum(1, keepdim=True) - 2 * vectors @ centres + centres.pow(2).sum(0, keepdim=True)
    codes: Tensor = distances.argmin(1).view(len(mel), -1)
    return codes


def build_vocoder(args: dict[str, Any]) -> HifiDecoder:
    """XTTS v2's vocoder, from GPT latents to a waveform at 24 kHz. Settings as in Xtts.init_models."""
    return HifiDecoder(
        input_sample_rate=args["input_sample_rate"],
        output_sample_rate=args["output_sample_rate"],
        output_hop_length=args["output_hop_length"],
        ar_mel_length_compression=args["gpt_code_stride_len"],
        decoder_input_dim=args["decoder_input_dim"],
        d_vector_dim=args["d_vector_dim"],
        cond_d_vector_in_each_upsampling_layer=args["cond_d_vector_in_each_upsampling_layer"],
    )


def build_codec_mel(mel_stats: Tensor | None) -> TorchMelSpectrogram:
    """Waveform (b, samples) → log mel (b, 80, samples // 256 + 1) for the DVAE, divided by `mel_stats` (80,)."""
    return _with_stats(TorchMelSpectrogram(mel_norm_file=None, sampling_rate=SAMPLE_RATE), mel_stats)


def build_conditioning_mel(mel_stats: Tensor) -> TorchMelSpectrogram:
    """Waveform (b, samples) → log mel (b, 80, samples // 256 + 1) for the conditioning encoder."""
    mel = TorchMelSpectrogram(
        filter_length=2048, hop_length=256, win_length=1024, mel_norm_file=None, sampling_rate=SAMPLE_RATE
    )
    return _with_stats(mel, mel_stats)


def _with_stats(mel: TorchMelSpectrogram, mel_stats: Tensor | None) -> TorchMelSpectrogram:
    mel.mel_norms = mel_stats
    return mel


def load_published_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a published model.pth or dvae.pth, memory-mapped.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    content = load_pickle(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unreadable(path, "does not hold the weights of a model")
    return state


def load_pickle(path: Path) -> Any:
    """The content of a published .pth file.

    It is a pickle from outside: it is read with weights_only, and the config classes that XTTS v2's model.pth
    refers to are the only ones allowed.

    Raises:
        UserError: the file is damaged, or refers to anything else, which loading it could run.
    """
    try:
        with _legacy_safe_globals():
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError as error:  # its message goes on to advise switching the protection off
        details = re.search(r"(Unsupported|Trying to).*?(?=\n|\. |$)", str(error))
        raise _unreadable(path, f"is not plain weights, and refused: {details[0] if details else ''}") from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"is damaged or no checkpoint of torch: {str(error).partition('. ')[0]}") from None


def _unreadable(path: Path, what: str) -> UserError:
    remedy = "fetch or copy the file again, from a source you trust"
    return UserError("the base cannot be used", [Problem(str(path), what[:300], remedy)])
