"""What is heard is compared with what was to be said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from making.recordings import noise
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from xtts_finetune.core.errors import UserError
from xtts_finetune.measures.recognition import Characters, error_rate, plain, recogniser_for
from xtts_finetune.measures.sound import LEAST_SECONDS, RATE, Sound, Unmeasurable, levelled

SOUND = levelled(noise(1, 2.0, RATE), RATE)


def hears_only(letter: str, folder: Path) -> Path:
    """A wav2vec 2.0 model that hears one letter, whatever is said."""
    vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), unk_token="<unk>", pad_token="<pad>")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(vocabulary), pad_token_id=0, **small, **convolutions))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()[vocabulary[letter]] = 1
    model.save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    """A Whisper of random weights that knows English and German."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>"]
    special += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", *(f"<|{i / 50:.2f}|>" for i in range(1501))]
    ids = {token: number for number, token in enumerate(["a", "b", "c", "Ġ", *special])}
    end, start = {"pad_token_id": ids[special[0]]}, {"decoder_start_token_id": ids[special[1]]}
    ends = {**end, "bos_token_id": ids[special[0]], "eos_token_id": ids[special[0]], **start}
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_target_positions": 64}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=len(ids), **ends, **small, **heads))
    model.generation_config = GenerationConfig(
        max_length=20,
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **ends,
    )
    model.save_pretrained(folder)
    tokenizer = WhisperTokenizer(vocab=ids, merges=[], additional_special_tokens=special[1:9])
    WhisperProcessor(WhisperFeatureExtractor(80), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Hello,” said the girls' teacher—it’s 5 o'clock… ‘No!’", "hello said the girls teacher it's 5 o'clock no"),
        ("Größe, ŞİŞ; e\u0301te\u0301", "größe şi̇ş été"),
        ("你好，世界。", "你好 世界"),
        ("?!…", ""),
    ],
)
def test_text_as_a_recogniser_writes_it(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_the_rate_of_errors() -> None:
    assert error_rate("abcd", "abcd") == 0
    assert error_rate("abcd", "abxd") == 0.25
    assert error_rate("abcd", "") == 1
    assert error_rate("ab", "abcdef") == 2
    with pytest.raises(Unmeasurable, match="no text"):
        error_rate("", "abc")


def test_another_language_without_a_recogniser_is_said_to_be_unmeasured() -> None:
    with pytest.raises(Unmeasurable, match="no recogniser for de"):
        recogniser_for("de", None)


def test_a_recogniser_of_the_users_own(tmp_path: Path) -> None:
    hear = recogniser_for("de", hears_only("a", tmp_path / "ctc"))
    assert hear(SOUND, "A!") == 0
    assert hear(SOUND, "bb") == 1
    assert hear(SOUND, "aabb") == 0.75


def test_words_that_are_not_spaced_are_compared_without_spaces(tmp_path: Path) -> None:
    assert Characters(hears_only("a", tmp_path / "ctc"), "ja")(SOUND, "a。a") == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [LEAST_SECONDS, 2.0, 33.0])
def test_whisper_hears_the_short_and_the_long(tmp_path: Path, seconds: float) -> None:
    hear = Characters(whisper(tmp_path / "whisper"), "de")
    sound: Sound = levelled(noise(1, seconds, RATE), RATE)
    assert np.isfinite(hear(sound, "abc"))
    assert hear(sound, "abc") == hear(sound, "abc")


@pytest.mark.parametrize("fault", ["missing", "a file", "empty", "not json", "another model"])
def test_a_folder_without_a_recogniser_is_refused(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "mine"
    if fault == "a file":
        folder.write_text("hello", encoding="utf-8")
    elif fault != "missing":
        folder.mkdir()
    if fault == "not json":
        (folder / "config.json").write_text("{", encoding="utf-8")
    if fault == "another model":
        (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(UserError) as refused:
        recogniser_for("de", folder)
    assert str(folder) in str(refused.value)
    assert "save_pretrained" in str(refused.value)
