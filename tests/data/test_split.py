"""The split: exact sizes, seeded, the same for any order of lines, like on both sides, no transcript on both."""

import random
from collections import Counter

import numpy as np
import pytest
from stand_ins import accepted_clip

from xtts_finetune.core.errors import UserError
from xtts_finetune.data.checks import Accepted
from xtts_finetune.data.split import split, transcript_key


def ids(items: list[Accepted]) -> list[str]:
    return [item.clip.id for item in items]


def clips(count: int = 311) -> list[Accepted]:
    lengths = np.random.default_rng(5).uniform(1, 10, count)
    return [accepted_clip(f"c{i:04}", f"Sentence {i}.", lengths[i], line=i + 1) for i in range(count)]


def test_sizes_of_the_mission() -> None:
    train, evaluation = split(clips(311), 0.15, 42)
    assert (len(train), len(evaluation)) == (265, 46)
    assert sorted(ids(train) + ids(evaluation)) == ids(clips(311))


def test_the_seed_decides() -> None:
    assert ids(split(clips(), 0.15, 42)[1]) == ids(split(clips(), 0.15, 42)[1])
    assert ids(split(clips(), 0.15, 42)[1]) != ids(split(clips(), 0.15, 43)[1])


def test_the_order_of_lines_does_not() -> None:
    shuffled = clips()
    random.Random(1).shuffle(shuffled)
    assert set(ids(split(shuffled, 0.15, 42)[1])) == set(ids(split(clips(), 0.15, 42)[1]))


def test_each_side_keeps_the_order_of_lines() -> None:
    for side in split(clips(), 0.15, 42):
        assert ids(side) == sorted(ids(side))


def test_speakers_and_languages_keep_their_shares() -> None:
    items = [
        accepted_clip(f"{speaker}{language}{i}", f"{speaker} {language} {i}", 1 + i % 9, speaker, language)
        for speaker, language, count in [("ann", "en", 200), ("ann", "it", 100), ("bob", "en", 100)]
        for i in range(count)
    ]
    random.Random(2).shuffle(items)
    for seed in range(10):
        shares = Counter((item.clip.speaker, item.clip.language) for item in split(items, 0.2, seed)[1])
        assert shares == {("ann", "en"): 40, ("ann", "it"): 20, ("bob", "en"): 20}


def test_durations_are_alike_on_both_sides() -> None:
    for seed in range(20):
        train, evaluation = split(clips(), 0.15, seed)
        for quantile in (0.1, 0.5, 0.9):
            of_train, of_eval = (np.quantile([item.seconds for item in side], quantile) for side in (train, evaluation))
            assert abs(of_train - of_eval) < 0.5  # a plain random draw of 46 often misses this


def test_every_clip_can_be_drawn() -> None:
    drawn = set().union(*(ids(split(clips(20), 0.15, seed)[1]) for seed in range(200)))
    assert drawn == set(ids(clips(20)))


def test_no_transcript_stands_on_both_sides() -> None:
    items = clips(60) + [accepted_clip(f"r{i}", "Correct!" if i % 2 else " correct ") for i in range(20)]
    for seed in range(20):
        train, evaluation = split(items, 0.3, seed)
        assert len(evaluation) == 24
        keys = [{transcript_key(item.clip.text) for item in side} for side in (train, evaluation)]
        assert not keys[0] & keys[1]
        assert {f"r{i}" for i in range(20)} <= set(ids(train))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("That is right!", "that's   right", False),
        ("That is right!", "“That IS right.”", True),
        ("Straße", "STRASSE", True),
        ("wellknown", "well-known", True),
        ("5 + 3", "5 - 3", False),
        ("कि", "की", False),
    ],
)
def test_what_counts_as_the_same_transcript(one: str, other: str, same: bool) -> None:
    assert (transcript_key(one) == transcript_key(other)) is same


@pytest.mark.parametrize("count", [2, 5, 6, 7])
def test_the_smallest_sets_have_one_clip_for_eval(count: int) -> None:
    assert len(split(clips(count), 0.15, 42)[1]) == 1


def test_one_clip_is_too_few() -> None:
    with pytest.raises(UserError, match=r"one clip is usable, and two are the least"):
        split(clips(1), 0.15, 42)


def test_too_few_transcripts_of_their_own() -> None:
    items = clips(2) + [accepted_clip(f"r{i}", "same") for i in range(18)]
    with pytest.raises(UserError, match=r"of 20 clips is 3 for eval, but only 2 clips have a transcript"):
        split(items, 0.15, 42)


def test_train_is_never_empty() -> None:
    train, evaluation = split(clips(3), 0.9999999999999999, 42)
    assert (len(train), len(evaluation)) == (1, 2)
