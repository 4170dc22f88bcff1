"""Verdicts where the truth is known: what is worse is refused, what is equal passes, what was not measured does not."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from xtts_finetune.measures.measured import MEASURES, Measure, Measures
from xtts_finetune.measures.paired import ALPHA, Comparison, Verdict, compare, interval
from xtts_finetune.measures.rules import RULES

# of a good voice, and how much sentences and two takes of one differ
MEAN = {"mos": 4.4, "similarity": 0.92, "error": 0.05, "letters_per_second": 14.0, "seconds_per_letter": 0.08}
MEAN |= {"gap": 0.3, "pitch": 56.0, "pitch_range": 10.0, "repeat": 0.5}
TAKES = {"mos": 0.1, "similarity": 0.01, "error": 0.02, "letters_per_second": 0.6, "seconds_per_letter": 0.004}
TAKES |= {"gap": 0.1, "pitch": 0.5, "pitch_range": 1.0, "repeat": 0.04}


def spoken(draw: np.random.Generator, count: int = 20, **changes: float) -> list[Measures]:
    """Of sentences that a model said, its means changed."""
    means = {name: value + changes.get(name, 0) for name, value in MEAN.items()}
    return [Measures(**{name: draw.normal(means[name], TAKES[name]) for name in MEASURES}) for _ in range(count)]


def verdict(comparison: Comparison, measure: Measure) -> Verdict:
    return next(each for each in comparison.verdicts if each.rule.measure == measure)


def worse(comparison: Comparison) -> set[Measure]:
    return {each.rule.measure for each in comparison.verdicts if each.outcome == "worse"}


def test_every_measure_has_one_rule() -> None:
    numbers = {field.name for field in fields(Measures)} - {"alarms", "reasons"}
    assert numbers == set(MEASURES)
    assert sorted(rule.measure for rule in RULES) == sorted(MEASURES)


@pytest.mark.parametrize(
    ("measure", "change"),
    [
        ("mos", -0.4),
        ("similarity", -0.04),
        ("error", 0.1),
        ("letters_per_second", 2.0),
        ("letters_per_second", -2.0),
        ("seconds_per_letter", 0.02),
        ("seconds_per_letter", -0.02),
        ("gap", 0.5),
        ("pitch", 2.0),
        ("pitch", -2.0),
        ("pitch_range", 4.0),
        ("pitch_range", -4.0),
        ("repeat", 0.2),
    ],
)
def test_what_is_worse_is_refused_by_its_rule(measure: Measure, change: float) -> None:
    draw = np.random.default_rng(1)
    compared = compare(spoken(draw, **{measure: change}), spoken(draw))
    assert worse(compared) == {measure}
    assert not compared.passes
    found = verdict(compared, measure)
    assert found.low is not None and found.change is not None and found.high is not None
    assert found.low < found.change < found.high
    ratio = change / MEAN[measure] if found.rule.kind == "ratio" else change
    assert found.change == pytest.approx(ratio, rel=0.4)


@pytest.mark.parametrize(
    ("measure", "change"), [("mos", 0.4), ("similarity", 0.05), ("error", -0.05), ("gap", -0.3), ("repeat", -0.2)]
)
def test_what_is_better_passes(measure: Measure, change: float) -> None:
    draw = np.random.default_rng(2)
    assert compare(spoken(draw, **{measure: change}), spoken(draw)).passes


def test_a_sure_change_within_the_margin_passes() -> None:
    other = spoken(np.random.default_rng(3))
    candidate = [replace(each, mos=(each.mos or 0) - 0.04) for each in other]
    found = verdict(compare(candidate, other), "mos")
    assert found.high == pytest.approx(-0.04)  # no doubt about it
    assert found.outcome == "passes"


def test_a_change_that_one_sentence_makes_passes() -> None:
    other = spoken(np.random.default_rng(4))
    candidate = [replace(other[0], mos=1.0), *other[1:]]
    assert verdict(compare(candidate, other), "mos").outcome == "passes"


@pytest.mark.slow
def test_an_equal_model_is_refused_in_at_most_a_twentieth() -> None:
    draw = np.random.default_rng(5)
    trials = 100
    refused = sum(not compare(spoken(draw), spoken(draw)).passes for _ in range(trials))
    assert refused <= 0.05 * trials


def test_bounds_hold_as_often_as_they_say() -> None:
    """Of so few values the plain percentile interval is too narrow."""
    draw = np.random.default_rng(6)
    trials, alpha = 300, 0.1
    wrong = sum(not low <= 0 <= high for low, high in (interval(draw.normal(size=8), alpha) for _ in range(trials)))
    assert wrong / trials == pytest.approx(alpha, abs=0.04)
    assert interval(np.full(20, 0.5), ALPHA) == (0.5, 0.5)


def test_the_same_measures_give_the_same_verdict() -> None:
    draw = np.random.default_rng(7)
    candidate, other = spoken(draw, mos=-0.1), spoken(draw)
    assert compare(candidate, other) == compare(candidate, other)


def without(measure: str, why: str, each: Measures) -> Measures:
    changes: dict[str, Any] = {measure: None, "reasons": {measure: why}}
    return replace(each, **changes)


@pytest.mark.parametrize("side", ["candidate", "other", "both"])
def test_what_was_not_measured_does_not_pass(side: str) -> None:
    draw = np.random.default_rng(8)
    candidate, other = spoken(draw), spoken(draw)
    if side != "other":
        candidate = [without("error", "no recogniser for de", each) for each in candidate]
    if side != "candidate":
        other = [without("error", "no recogniser for de", each) for each in other]
    compared = compare(candidate, other)
    found = verdict(compared, "error")
    assert (found.outcome, found.pairs, found.change) == ("not measured", 0, None)
    assert found.reason == f"{40 if side == 'both' else 20} of 40 not: no recogniser for de"
    assert not compared.passes
    assert worse(compared) == set()


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"), [(5, 0, "passes"), (6, 0, "worse"), (8, 8, "passes"), (13, 5, "not measured")]
)
def test_a_candidate_that_can_be_measured_less_often_is_worse(ours: int, theirs: int, outcome: str) -> None:
    draw = np.random.default_rng(9)
    candidate, other = spoken(draw), spoken(draw)
    candidate[:ours] = [without("pitch", "no voice", each) for each in candidate[:ours]]
    other[:theirs] = [without("pitch", "no voice", each) for each in other[:theirs]]
    found = verdict(compare(candidate, other), "pitch")
    assert (found.outcome, found.pairs) == (outcome, 20 - max(ours, theirs))
    assert found.reason == {"passes": "", "worse": f"{ours} of 20 not: no voice"}.get(outcome, "18 of 40 not: no voice")


def test_few_sentences_prove_nothing() -> None:
    draw = np.random.default_rng(10)
    compared = compare(spoken(draw, count=7), spoken(draw, count=7))
    assert {each.outcome for each in compared.verdicts} == {"not measured"}
    assert not compared.passes


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [(0, 0, "passes"), (2, 0, "passes"), (3, 0, "worse"), (6, 4, "passes"), (12, 4, "worse"), (0, 20, "passes")],
)
def test_alarms_are_counted_against_the_others(ours: int, theirs: int, outcome: str) -> None:
    draw = np.random.default_rng(11)
    candidate, other = spoken(draw), spoken(draw)
    candidate[:ours] = [replace(each, alarms=("runaway", "repeat")) for each in candidate[:ours]]
    other[20 - theirs :] = [replace(each, alarms=("cut off",)) for each in other[20 - theirs :]]
    found = compare(candidate, other).alarms
    assert (found.outcome, found.candidate_sentences, found.other_sentences) == (outcome, ours, theirs)
    assert found.candidate == ({"runaway": ours, "repeat": ours} if ours else {})
    assert found.other == ({"cut off": theirs} if theirs else {})


def test_models_are_compared_by_the_same_sentences() -> None:
    draw = np.random.default_rng(12)
    with pytest.raises(AssertionError, match="same sentences"):
        compare(spoken(draw, count=20), spoken(draw, count=19))
