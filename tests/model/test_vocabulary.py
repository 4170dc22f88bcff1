"""Tokens are added behind the old ones, and old texts are spelled as before."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from making.recordings import sample_lines

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import CONFIG, VOCABULARY
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.vocabulary import Extension, Need, clean_texts, count_tokens, needs_of
from xtts_finetune.model.xtts import VoiceBpeTokenizer

MORE = [(line.split("|")[2], "en") for line in sample_lines()]
ENGLISH = MORE[::5]
ROMANIAN = [("Știința e țara mea: așa și ața.", "it"), ("Și “țara” are ață.", "it")]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A vocabulary learned on English."""
    mini.train_vocabulary(ENGLISH, tmp_path / VOCABULARY)
    write_json(tmp_path / CONFIG, {"languages": ["en"], "model_args": {"gpt_number_text_tokens": 1}})
    return tmp_path


def tokenizer_of(folder: Path) -> VoiceBpeTokenizer:
    return xtts.build_tokenizer(folder / VOCABULARY)


def change(folder: Path, **model: Any) -> None:
    """Something in the vocabulary's own description."""
    content = read_json(folder / VOCABULARY)
    content["model"] |= model
    write_json(folder / VOCABULARY, content)


def without_language(folder: Path, tag: str) -> None:
    content = json.loads((folder / VOCABULARY).read_text(encoding="utf-8").replace(tag, "[none]"))
    write_json(folder / VOCABULARY, content)


def extend(folder: Path, texts: list[tuple[str, str]], pieces: int = 0) -> Extension:
    """As `vocabulary.extend: auto`."""
    tokenizer = tokenizer_of(folder)
    cleaned = clean_texts(tokenizer, texts)
    extension = Extension(folder)
    extension.add_needs(needs_of(tokenizer, cleaned))
    extension.learn(cleaned, pieces)
    extension.write()
    return extension


def listed(folder: Path, pieces: Iterable[str], languages: Iterable[str] = ("en", "it")) -> tuple[Extension, list[str]]:
    extension = Extension(folder)
    known = extension.add_listed([(text, f"list:{line}") for line, text in enumerate(pieces, 1)], languages)
    extension.write()
    return extension, known


def test_needs_are_what_would_be_refused(base: Path) -> None:
    tokenizer = tokenizer_of(base)
    needs = needs_of(tokenizer, clean_texts(tokenizer, [*ENGLISH, *ROMANIAN]))
    assert needs == [Need("ș", 2, 4), Need("ț", 2, 5), Need("ă", 1, 1), Need("“", 1, 1), Need("”", 1, 1)]
    for text, language in ROMANIAN:
        with pytest.raises(ValueError, match="the vocabulary lacks"):
            xtts.encode_text(tokenizer, text, language)


@pytest.mark.parametrize("in_pairs", [True, False], ids=["pairs", "as published"])
def test_characters_are_added_behind_the_old_tokens(base: Path, in_pairs: bool) -> None:
    if not in_pairs:
        change(base, merges=[" ".join(merge) for merge in read_json(base / VOCABULARY)["model"]["merges"]])
    before, merges = tokenizer_of(base), read_json(base / VOCABULARY)["model"]["merges"]
    old, next_id = before.tokenizer.get_vocab(), before.get_number_tokens()
    extension = extend(base, [*MORE, *ROMANIAN], pieces=20)
    after = tokenizer_of(base)
    new = after.tokenizer.get_vocab()
    assert {token: new[token] for token in old} == old
    added = {new[token.text]: token.text for token in extension.new}
    assert sorted(added) == list(range(next_id, next_id + 25)) == list(range(next_id, after.get_number_tokens()))
    assert read_json(base / CONFIG)["model_args"]["gpt_number_text_tokens"] == next_id + 25
    content = read_json(base / VOCABULARY)["model"]["merges"]
    assert content[: len(merges)] == merges  # as they were written
    assert all(isinstance(merge, list) == in_pairs for merge in content)
    for text, language in ROMANIAN:
        xtts.encode_text(after, text, language)


def test_texts_are_spelled_as_before_and_then_joined(base: Path) -> None:
    before = tokenizer_of(base)
    extension = extend(base, MORE, pieces=40)
    after = tokenizer_of(base)
    assert len(extension.new) == 40
    parts = {after.tokenizer.token_to_id(token.text): token.start for token in extension.new}
    for text, language in [*MORE, ("Something that was never read before!", "en")]:
        tokens = xtts.encode_text(after, text, language)
        taken_apart = [each for token in tokens for each in parts.get(token, (token,))]
        assert taken_apart == xtts.encode_text(before, text, language)
    cleaned = clean_texts(before, MORE)
    assert count_tokens(after, cleaned) < count_tokens(before, cleaned)


def test_without_pieces_old_texts_are_spelled_the_same(base: Path) -> None:
    before = tokenizer_of(base)
    extend(base, ROMANIAN)
    for text, language in ENGLISH:
        assert xtts.encode_text(tokenizer_of(base), text, language) == xtts.encode_text(before, text, language)


def test_it_ends_in_the_same_vocabulary_every_time(base: Path, tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("a", "b")]
    for copy, texts in zip(copies, (MORE, MORE[::-1]), strict=True):
        copy.mkdir()
        for name in (VOCABULARY, CONFIG):
            (copy / name).write_bytes((base / name).read_bytes())
        extend(copy, texts, pieces=30)
    assert (copies[0] / VOCABULARY).read_bytes() == (copies[1] / VOCABULARY).read_bytes()


def test_a_character_starts_as_what_it_is_written_with(base: Path) -> None:
    ids = tokenizer_of(base).tokenizer.get_vocab()
    starts = {token.text: token.start for token in extend(base, [*ROMANIAN, ("Wait… ☂", "en")]).new}
    assert starts["ț"] == (ids["t"],)
    assert starts["…"] == (ids["."],) * 3
    assert starts["☂"] == ()


def test_what_cannot_be_seen_is_not_added(base: Path) -> None:
    tokenizer = tokenizer_of(base)
    texts = [("Caf\ufffd here.", "en"), ("Zero\u2060width.", "en")]
    assert extend(base, texts, pieces=9).new == []
    assert len(needs_of(tokenizer, clean_texts(tokenizer, texts))) == 2


def test_a_language_that_the_vocabulary_has_no_token_for(base: Path) -> None:
    without_language(base, "[hu]")
    tokenizer, text = tokenizer_of(base), ("Hello there.", "hu")
    with pytest.raises(ValueError, match=r"lacks the language's own token, \[hu\]"):
        xtts.encode_text(tokenizer, *text)
    [token] = extend(base, [text]).new
    ids = tokenizer.tokenizer.get_vocab()
    assert set(token.start) == {ids[f"[{language}]"] for language in xtts.LANGUAGES if language != "hu"}
    assert xtts.encode_text(tokenizer_of(base), *text)[0] == tokenizer.get_number_tokens()
    assert read_json(base / CONFIG)["languages"] == ["en", "hu"]  # else Coqui's class refuses it


def test_a_list_is_added_with_what_its_pieces_are_joined_of(base: Path) -> None:
    extension, known = listed(base, ["e", "ă", "zyx", "xyzyx", "ață"])
    assert known == ["e"]
    assert [token.text for token in extension.new][:3] == ["ă", "zy", "zyx"]
    after = tokenizer_of(base)
    for text in ("ă", "zyx", "xyzyx", "ață"):
        assert xtts.spell(after, text) == [after.tokenizer.token_to_id(text)]


def test_a_list_is_refused_with_all_that_is_wrong_in_it(base: Path) -> None:
    before = (base / VOCABULARY).read_bytes()
    with pytest.raises(UserError) as error:
        listed(base, ["ok", "[ro]", "Ă", "don't", "12"])
    said = {problem.where: problem.what for problem in error.value.problems}
    assert said.keys() == {"list:2", "list:3", "list:4", "list:5"}
    assert "'[ro]' is the code of a language that Coqui's cleaners do not know" in said["list:2"]
    assert "'Ă' is changed before it is spelled, by the cleaners of en, it" in said["list:3"]
    assert "is never one piece: texts are split there, into don ' t" in said["list:4"]
    assert "'12' is changed" in said["list:5"]
    assert (base / VOCABULARY).read_bytes() == before


@pytest.mark.parametrize("model", [{"continuing_subword_prefix": "##"}, {"dropout": 0.1}, {"type": "WordPiece"}])
def test_another_kind_of_vocabulary_is_refused(base: Path, model: dict[str, Any]) -> None:
    change(base, **model)
    with pytest.raises(UserError, match="is no BPE vocabulary of XTTS v2's kind"):
        Extension(base)
