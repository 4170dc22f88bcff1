"""Byte-pair encoding, learned on from a vocabulary that is there: `tokenizers` trains new ones only.

Reference: Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units (2016), algorithm 1.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise

from xtts_finetune.core.bars import Bar

Merge = tuple[str, str]


def learn(words: Mapping[tuple[str, ...], int], known: Set[str], count: int) -> list[Merge]:
    """The `count` merges that join the most frequent pairs of tokens, one after the other; fewer if none occurs twice.

    No merge joins what a known token spells already: the token would be met where the old merges did not make it.

    Args:
        words: their tokens, and how often each is met.
        known: the tokens that there are; what else stands in a word is joined to nothing.
    """
    corpus = _Corpus(words)
    tokens, merges = set(known), list[Merge]()
    for _ in Bar(range(count), desc="learning pieces", unit="piece", mininterval=0.5):
        usable = (pair for pair in corpus.pairs if tokens.issuperset(pair) and "".join(pair) not in tokens)
        # of pairs that are met as often the first by its spelling: the same ones every time
        best = min(usable, key=lambda pair: (-corpus.pairs[pair], pair), default=None)
        if best is None or corpus.pairs[best] < 2:
            break
        corpus.join(best)
        merges.append(best)
        tokens.add("".join(best))
    return merges


def joined(tokens: Sequence[str], merge: Merge) -> list[str]:
    """The tokens of a word, with the pair joined wherever it stands, from the left."""
    done: list[str] = []
    at = 0
    while at < len(tokens):
        is_pair = tuple(tokens[at : at + 2]) == merge
        done.append("".join(merge) if is_pair else tokens[at])
        at += 2 if is_pair else 1
    return done


class _Corpus:
    """Words by their tokens, with the pairs in them counted on."""

    def __init__(self, words: Mapping[tuple[str, ...], int]) -> None:
        self.words = [list(tokens) for tokens in words]
        self.times = list(words.values())
        self.pairs = Counter[Merge]()
        self.places = defaultdict[Merge, set[int]](set)
        for word in range(len(self.words)):
            self._count(word, self.times[word])

    def join(self, merge: Merge) -> None:
        for word in self.places.pop(merge):
            self._count(word, -self.times[word])
            self.words[word] = joined(self.words[word], merge)
            self._count(word, self.times[word])

    def _count(self, word: int, times: int) -> None:
        for pair in pairwise(self.words[word]):
            self.pairs[pair] += times
            self.places[pair].add(word)
