"""Texts as tokens, and the networks' true size."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from making.prepared import TEXT
from making.recordings import noise

from xtts_finetune.core.constants import LANGUAGES
from xtts_finetune.core.layout import Workspace
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.parts import PUBLISHED_CODEC
from xtts_finetune.model.xtts import VoiceBpeTokenizer


@pytest.fixture
def tokenizer(workspace: Workspace) -> VoiceBpeTokenizer:
    return xtts.build_tokenizer(workspace.prepared / "base" / "vocab.json")


def test_a_text_is_tagged_with_its_language(tokenizer: VoiceBpeTokenizer) -> None:
    tokens = xtts.encode_text(tokenizer, TEXT, "en")
    assert tokens[0] == tokenizer.tokenizer.token_to_id("[en]")
    assert xtts.encode_text(tokenizer, TEXT.upper(), "en") == tokens
    assert xtts.encode_text(tokenizer, TEXT, "it")[1:] == tokens[1:]


def test_characters_that_the_vocabulary_lacks_are_named(tokenizer: VoiceBpeTokenizer) -> None:
    with pytest.raises(ValueError, match=r"^the vocabulary lacks 'é' '☂'$"):
        xtts.encode_text(tokenizer, "the café ☂ ☂", "en")


def test_an_unknown_language_is_named(tokenizer: VoiceBpeTokenizer) -> None:
    with pytest.raises(ValueError, match="language 'tlh' is not one of XTTS v2's: en, es"):
        xtts.encode_text(tokenizer, TEXT, "tlh")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_encoded_or_refused_with_a_reason(tokenizer: VoiceBpeTokenizer, language: str) -> None:
    """Coqui's cleaners need packages for some, and lack numbers for others."""
    try:
        tokens = xtts.encode_text(tokenizer, "the 3 dogs", language)
    except ValueError as error:
        assert re.match(f"the vocabulary lacks '|text in '{language}' cannot be cleaned: .", str(error))
    else:
        assert len(tokens) > 3


def test_texts_that_cannot_be_cleaned_do_not_stop_a_vocabulary(tmp_path: Path) -> None:
    mini.train_vocabulary([("你好", "zh-cn"), ("नमस्ते 3", "hi"), ("hello", "en"), ("ħapla", "tlh")], tmp_path / "v.json")
    tokenizer = xtts.build_tokenizer(tmp_path / "v.json")
    xtts.encode_text(tokenizer, "hello", "en")
    with pytest.raises(ValueError, match="'ħ'"):
        xtts.encode_text(tokenizer, "ħapla", "en")


def test_the_published_size() -> None:
    """441,018,563 parameters, as in XTTS v2's model.pth; its vocabulary has 6,681 tokens."""

    class Published(VoiceBpeTokenizer):
        def __init__(self) -> None:
            self.tokenizer = SimpleNamespace(token_to_id=lambda token: 0)

        def get_number_tokens(self) -> int:
            return 6681

    with torch.device("meta"):
        gpt = xtts.build_gpt(xtts.default_args(), Published())
    assert sum(value.numel() for value in gpt.parameters()) == 441_018_563


@pytest.mark.parametrize("shape", [mini.CODEC_SHAPE, PUBLISHED_CODEC], ids=["mini", "published"])
def test_codes_are_those_that_coquis_own_function_gives(shape: dict[str, int]) -> None:
    torch.manual_seed(0)
    dvae = xtts.build_dvae(**shape).eval()
    mel = xtts.build_codec_mel(torch.full((xtts.MEL_CHANNELS,), 5.0))
    with torch.inference_mode():
        for seconds in (0.1, 0.5, 1.013, 3.7):
            mels = mel(torch.from_numpy(noise(1, seconds))[None])
            assert torch.equal(xtts.encode_mel(dvae, mels), dvae.get_codebook_indices(mels))
