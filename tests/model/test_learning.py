"""Byte-pair encoding that goes on from tokens that are there."""

from xtts_finetune.model.learning import joined, learn

WORDS = {("l", "o", "w"): 5, ("l", "o", "w", "er"): 2, ("n", "e", "w"): 6, ("w", "i", "d", "er"): 3}
KNOWN = {"l", "o", "w", "er", "n", "e", "i", "d"}


def test_the_most_frequent_pair_is_joined_first_and_goes_on() -> None:
    assert learn(WORDS, KNOWN, 4) == [("l", "o"), ("lo", "w"), ("e", "w"), ("n", "ew")]


def test_nothing_is_joined_that_a_known_token_spells() -> None:
    assert ("l", "o") not in learn(WORDS, KNOWN | {"lo"}, 99)
    assert learn(WORDS, KNOWN | {"lo"}, 99)[:2] == [("o", "w"), ("l", "ow")]


def test_what_is_met_once_is_no_piece() -> None:
    assert learn({("a", "b"): 1, ("c", "d"): 2}, set("abcd"), 9) == [("c", "d")]


def test_what_is_no_token_is_joined_to_nothing() -> None:
    assert learn({("a", "☂", "b"): 9, ("☂", "☂"): 9}, set("ab"), 9) == []


def test_the_order_of_the_words_decides_nothing() -> None:
    turned = dict(reversed(WORDS.items()))
    assert learn(WORDS, KNOWN, 99) == learn(turned, KNOWN, 99)


def test_pairs_are_joined_from_the_left() -> None:
    assert joined(list("aaaba"), ("a", "a")) == ["aa", "a", "b", "a"]
