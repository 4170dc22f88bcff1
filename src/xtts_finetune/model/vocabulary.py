"""Add tokens to a base's vocabulary: what texts need and it lacks, or what a list names.

Old tokens keep their ids. New merges stand behind the old ones, so that of BPE's rules all old ones come first: a text
is spelled as before, and then pieces of it are joined.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.constants import LANGUAGES
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import CONFIG, VOCABULARY
from xtts_finetune.model import xtts
from xtts_finetune.model.learning import Merge, joined, learn
from xtts_finetune.model.xtts import UNKNOWN_TOKEN, VoiceBpeTokenizer

TITLE = "the vocabulary cannot be extended"
_LOST = "\N{REPLACEMENT CHARACTER}"  # of a text that was not read in its own encoding

Text = tuple[str, str]  # cleaned, language


@dataclass(frozen=True)
class Need:
    """What a vocabulary lacks: a language's token or a character."""

    text: str
    clips: int
    times: int

    @property
    def is_language(self) -> bool:
        return len(self.text) > 1

    @property
    def is_spoken(self) -> bool:
        """Whether it can be seen, and no text was lost in its place."""
        return self.text.isprintable() and self.text != _LOST


@dataclass(frozen=True)
class NewToken:
    """A token to be added; `start`: those whose rows' mean it starts as, of none the mean of all old ones."""

    kind: Literal["language", "character", "piece"]
    text: str
    start: tuple[int, ...]
    merge: Merge | None = None  # what a piece is joined of


def clean_texts(tokenizer: VoiceBpeTokenizer, texts: Sequence[Text]) -> list[Text]:
    """(cleaned, language) of (text, language) pairs, with a progress bar; without those that cannot be cleaned."""
    cleaned = []
    for text, language in Bar(texts, desc="reading transcripts", unit="clip", mininterval=0.5):
        with suppress(ValueError):  # encode_text refuses them, saying why
            cleaned.append((xtts.clean_text(tokenizer, text, language), language))
    return cleaned


def needs_of(tokenizer: VoiceBpeTokenizer, texts: Sequence[Text]) -> list[Need]:
    """What cleaned texts need and the vocabulary lacks: languages' tokens, then characters; the most frequent first."""
    tags = Counter(xtts.language_tag(language) for _, language in texts)
    clips = Counter(character for text, _ in texts for character in set(text))
    times = Counter(character for text, _ in texts for character in text)
    lacking = [tag for tag in tags if tokenizer.tokenizer.token_to_id(tag) is None]
    unknown = [character for character in clips if UNKNOWN_TOKEN in xtts.spell(tokenizer, character)]
    needs = [Need(tag, tags[tag], tags[tag]) for tag in lacking]
    needs += [Need(character, clips[character], times[character]) for character in unknown]
    return sorted(needs, key=lambda need: (not need.is_language, -need.clips, need.text))


def count_tokens(tokenizer: VoiceBpeTokenizer, texts: Sequence[Text]) -> int:
    """Of cleaned texts, their languages' tokens left out."""
    return sum(len(xtts.spell(tokenizer, text)) for text, _ in texts)


class Extension:
    """Tokens to be added to the vocabulary in a base's folder; `write` adds them.

    Attributes:
        new: in the order of their ids, which follow the old ones'.

    Raises:
        UserError: the vocabulary is another kind of BPE than XTTS v2's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _refuse_another_kind(folder / VOCABULARY)
        self.tokenizer = xtts.build_tokenizer(folder / VOCABULARY)
        self.new: list[NewToken] = []
        self._ids: dict[str, int] = dict(self.tokenizer.tokenizer.get_vocab())
        self._next: int = self.tokenizer.get_number_tokens()

    def add_needs(self, needs: Iterable[Need]) -> None:
        """Languages' tokens and characters. What cannot be seen is left out: its texts stay refused."""
        for need in needs:
            if need.is_language:
                self._add_language(need.text)
            elif need.is_spoken:
                self._add_character(need.text)

    def learn(self, texts: Sequence[Text], pieces: int) -> None:
        """Add the `pieces` that shorten cleaned texts most, or as many as there are that occur twice."""
        words = Counter(word for text, _ in texts for word in self._words(text))
        spelled = Counter[tuple[str, ...]]()
        for word, times in words.items():
            spelled[tuple(self._spelled(word))] += times
        for merge in learn(spelled, self._ids.keys(), pieces):
            self._add_piece(merge)

    def add_listed(self, pieces: Iterable[tuple[str, str]], languages: Iterable[str]) -> list[str]:
        """Add characters, pieces and languages' tokens, and what the pieces are joined of; returns those known before.

        Args:
            pieces: (text, where it stands) of each.
            languages: of the texts.

        Raises:
            UserError: some would never be met in a text, or are of a language that cannot be cleaned; all are named.
        """
        known, problems, languages = [], [], sorted(set(languages))
        for text, where in pieces:
            if text in self._ids:
                known.append(text)
            elif reason := self._add_or_refuse(text, languages):
                problems.append(Problem(where, f"{text!r} {reason[0]}", reason[1]))
        if problems:
            raise UserError(TITLE, problems)
        return known

    def write(self) -> None:
        """Write vocab.json, in the form it has, and what of it config.json repeats."""
        vocabulary = read_json(self.folder / VOCABULARY)
        model, config = vocabulary["model"], read_json(self.folder / CONFIG)
        in_pairs = any(
            isinstance(merge, list) for merge in model["merges"]
        )  # else "th e", as when XTTS v2 was published
        for token in self.new:
            model["vocab"][token.text] = self._ids[token.text]
            if token.merge:
                model["merges"].append(list(token.merge) if in_pairs else " ".join(token.merge))
            if token.kind == "language":
                flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                vocabulary["added_tokens"].append({"id": self._ids[token.text], "content": token.text, **flags})
                vocabulary["added_tokens"][-1]["special"] = True
                config["languages"] = [*dict.fromkeys([*config.get("languages", []), token.text.strip("[]")])]
        config["model_args"]["gpt_number_text_tokens"] = self._next
        write_json(self.folder / VOCABULARY, vocabulary)
        write_json(self.folder / CONFIG, config)

    def _add(self, token: NewToken) -> None:
        self.new.append(token)
        self._ids[token.text] = self._next
        self._next += 1

    def _add_language(self, tag: str) -> None:
        """It starts as the mean of the other languages'."""
        others = [self._ids[other] for other in map(xtts.language_tag, LANGUAGES) if other in self._ids]
        self._add(NewToken("language", tag, tuple(others)))

    def _add_character(self, character: str) -> None:
        """It starts as what it is written with, as ț with t, where the vocabulary has that."""
        letters = [each for each in unicodedata.normalize("NFKD", character) if not unicodedata.combining(each)]
        start = [self._ids[letter] for letter in letters if letter in self._ids]
        self._add(NewToken("character", character, tuple(start)))

    def _add_piece(self, merge: Merge) -> None:
        """It starts as the mean of the old tokens, and new characters, that it was spelled by."""
        pieces = {token.text: token.start for token in self.new if token.kind == "piece"}
        start = [each for part in merge for each in pieces.get(part, (self._ids[part],))]
        self._add(NewToken("piece", "".join(merge), tuple(start), merge))

    def _add_or_refuse(self, text: str, languages: Sequence[str]) -> tuple[str, str] | None:
        """Why a text cannot be a token, and the remedy."""
        if text.startswith("[") and text.endswith("]"):
            if text.strip("[]") in LANGUAGES:
                self._add_language(text)
                return None
            remedy = f"write it in the spelling of one they know, and take its code: {', '.join(LANGUAGES)}"
            return "is the code of a language that Coqui's cleaners do not know: they would refuse every text", remedy
        if not any(self._is_left(text, language) for language in languages):
            return f"is changed before it is spelled, by the cleaners of {', '.join(languages)}", "write what they make"
        if len(words := list(self._words(text))) != 1:
            return f"is never one piece: texts are split there, into {' '.join(words)}", "write its parts"
        for character in text:
            if UNKNOWN_TOKEN in xtts.spell(self.tokenizer, character) and character not in self._ids:
                self._add_character(character)
        return self._add_joined(text)

    def _add_joined(self, text: str) -> tuple[str, str] | None:
        """Pieces from the left on, until the text is one."""
        while len(parts := self._spelled(text)) > 1:
            merge = next((pair for pair in pairwise(parts) if "".join(pair) not in self._ids), None)
            if merge is None:
                return f"cannot be joined of what it is spelled by: {' '.join(parts)}", "write a longer or shorter one"
            self._add_piece(merge)
        return None

    def _is_left(self, text: str, language: str) -> bool:
        with suppress(ValueError):
            return xtts.clean_text(self.tokenizer, text, language) == text
        return False

    def _words(self, text: str) -> Iterator[str]:
        """What BPE sees of a cleaned text, one after the other."""
        split = self.tokenizer.tokenizer.pre_tokenizer
        for chunk in text.split(" "):
            yield from (word for word, _ in split.pre_tokenize_str(chunk)) if split else filter(None, [chunk])

    def _spelled(self, word: str) -> list[str]:
        """The tokens of a word, new ones, too. What the vocabulary lacks stands by itself."""
        encoded = self.tokenizer.tokenizer.encode(word)
        parts: list[str] = []
        for token, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
            parts += list(word[begin:end]) if token == UNKNOWN_TOKEN else [word[begin:end]]
        for each in self.new:
            parts = joined(parts, each.merge) if each.merge else parts
        return parts


def _refuse_another_kind(file: Path) -> None:
    """New merges are known to leave old spellings alone where nothing but merges decides."""
    content = read_json(file)
    other = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    names = [name for name in other if content["model"].get(name)]
    if content["model"].get("type", "BPE") != "BPE" or content.get("normalizer"):
        names.append("another model, or a normalizer")
    if names:
        what = f"is no BPE vocabulary of XTTS v2's kind: it has {', '.join(names)}"
        raise UserError(TITLE, [Problem(str(file), what, "params.yaml: vocabulary.extend: null")])
