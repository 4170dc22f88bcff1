"""Two models compared, sentence by sentence: whether the candidate is worse, and how sure that is."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from xtts_finetune.core.params import LEAST_SENTENCES
from xtts_finetune.measures.alarms import Alarm
from xtts_finetune.measures.measured import Measures
from xtts_finetune.measures.rules import RULES, Rule

RESAMPLES = 10_000
SEED = 0
ALPHA = 0.05 / len(RULES)  # chance that a rule refuses an equal model: together at most 0.05 (Bonferroni)
LEAST_PAIRS = LEAST_SENTENCES
RARE = 0.05  # chance that an equal model alarms in so many sentences

Outcome = Literal["passes", "worse", "not measured"]
Differences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """A rule applied. The numbers are None where `reason` says why."""

    rule: Rule
    outcome: Outcome
    pairs: int  # sentences measured in both models
    candidate: float | None = None  # means over those
    other: float | None = None
    change: float | None = None  # the mean change by `rule.kind`
    low: float | None = None  # bounds of the change over sentences, by bootstrap
    high: float | None = None
    reason: str = ""  # why it was not measured, or not as often as in the other


@dataclass(frozen=True)
class AlarmVerdict:
    """How often each model alarmed."""

    outcome: Outcome
    candidate: dict[Alarm, int]  # sentences, by kind
    other: dict[Alarm, int]
    candidate_sentences: int  # with any alarm
    other_sentences: int


@dataclass(frozen=True)
class Comparison:
    """All rules applied to a candidate and another model."""

    sentences: int
    verdicts: tuple[Verdict, ...]
    alarms: AlarmVerdict

    @property
    def passes(self) -> bool:
        """Nothing is worse, and nothing was left unmeasured."""
        return self.alarms.outcome == "passes" and all(verdict.outcome == "passes" for verdict in self.verdicts)


def compare(candidate: Sequence[Measures], other: Sequence[Measures]) -> Comparison:
    """Apply all rules; the same measures always give the same verdicts.

    Args:
        candidate: of the sentences, in their order.
        other: of the same sentences as another model spoke them.
    """
    assert len(candidate) == len(other) > 0, "models are compared by the same sentences"
    verdicts = tuple(_apply(rule, candidate, other) for rule in RULES)
    return Comparison(len(candidate), verdicts, _alarms(candidate, other))


def _apply(rule: Rule, candidate: Sequence[Measures], other: Sequence[Measures]) -> Verdict:
    ours, theirs = ([getattr(each, rule.measure) for each in measures] for measures in (candidate, other))
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if len(both) < LEAST_PAIRS:
        return Verdict(rule, "not measured", len(both), reason=_lacking(rule, (*candidate, *other)))
    if _chance(ours.count(None), theirs.count(None), len(ours)) < ALPHA:
        return Verdict(rule, "worse", len(both), reason=_lacking(rule, candidate))
    a, b = np.array(both).T
    changes = np.log(a / b) if rule.kind == "ratio" else a - b
    low, high = interval(changes, ALPHA if rule.worse == "both" else 2 * ALPHA)
    low, mean, high = (math.expm1(v) if rule.kind == "ratio" else v for v in (low, float(changes.mean()), high))
    sinks = rule.worse != "higher" and high < 0 and mean < -rule.margin
    rises = rule.worse != "lower" and low > 0 and mean > rule.margin
    outcome: Outcome = "worse" if sinks or rises else "passes"
    return Verdict(rule, outcome, len(both), float(a.mean()), float(b.mean()), mean, low, high)


def interval(changes: Differences, alpha: float) -> tuple[float, float]:
    """Bounds of their mean, each wrong with a chance of alpha / 2: bootstrap over sentences.

    The expanded percentile interval (Hesterberg 2015, What teachers should know about the bootstrap): of 20 sentences
    the plain one is too narrow, as a normal distribution in place of Student's is.
    """
    count = len(changes)
    tail = stats.norm.sf(math.sqrt(count / (count - 1)) * stats.t.isf(alpha / 2, count - 1))
    found = stats.bootstrap(
        (changes,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _lacking(rule: Rule, measures: Sequence[Measures]) -> str:
    """In how many sentences it was not measured, and why mostly."""
    why = Counter(each.reasons[rule.measure] for each in measures if rule.measure in each.reasons)
    return f"{why.total()} of {len(measures)} not: {why.most_common(1)[0][0]}" if why else "too few sentences"


def _alarms(candidate: Sequence[Measures], other: Sequence[Measures]) -> AlarmVerdict:
    """Alarms are rare and not measured by their size: whether an equal model would have as many."""
    ours, theirs = (sum(bool(each.alarms) for each in measures) for measures in (candidate, other))
    outcome: Outcome = "worse" if _chance(ours, theirs, len(candidate)) < RARE else "passes"
    return AlarmVerdict(outcome, _by_kind(candidate), _by_kind(other), ours, theirs)


def _chance(ours: int, theirs: int, sentences: int) -> float:
    """That something happens in so many sentences of an equal model, or in more, given in how many of the other's.

    Of the beta-binomial distribution that predicts one count from the other (Jeffreys' prior).
    """
    return float(stats.betabinom.sf(ours - 1, sentences, theirs + 0.5, sentences - theirs + 0.5))


def _by_kind(measures: Sequence[Measures]) -> dict[Alarm, int]:
    return dict(Counter(alarm for each in measures for alarm in each.alarms))
