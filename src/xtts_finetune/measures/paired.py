"""Two models compared, sentence by sentence: whether the candidate is worse, and how sure that is."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from xtts_finetune.measures.alarms import Alarm
from xtts_finetune.measures.measured import Measures
from xtts_finetune.measures.rules import RULES, Rule

RESAMPLES = 10_000
SEED = 0
ALPHA = 0.05 / len(RULES)  # chance that a rule refuses an equal model: together at most 0.05 (Bonferroni)
LEAST_PAIRS = 8  # an interval from fewer says little
LEAST_SHARE = 0.8  # of the sentences, that must have been measured in both models
ALARM_CHANCE = 0.05  # that an equal model alarms so often

Outcome = Literal["passes", "worse", "not measured"]
Differences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """A rule applied. The numbers are None where it was not measured."""

    rule: Rule
    outcome: Outcome
    pairs: int  # sentences measured in both models
    candidate: float | None = None  # means over those
    other: float | None = None
    change: float | None = None  # the mean change by `rule.kind`
    low: float | None = None  # bounds of the change over sentences, by bootstrap
    high: float | None = None
    reason: str = ""  # that it was not measured


@dataclass(frozen=True)
class AlarmVerdict:
    """How often each model alarmed."""

    outcome: Outcome
    candidate: dict[Alarm, int]  # sentences, by kind
    other: dict[Alarm, int]
    candidate_sentences: int  # with any alarm
    other_sentences: int
    chance: float  # that an equal model alarms in as many sentences as the candidate did, or more


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
    if len(both) < max(LEAST_PAIRS, LEAST_SHARE * len(candidate)):
        why = Counter(each.reasons[rule.measure] for each in (*candidate, *other) if rule.measure in each.reasons)
        reason = why.most_common(1)[0][0] if why else "too few sentences"
        return Verdict(rule, "not measured", len(both), reason=f"{len(both)} of {len(candidate)} sentences: {reason}")
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


def _alarms(candidate: Sequence[Measures], other: Sequence[Measures]) -> AlarmVerdict:
    """Alarms are rare and not measured by their size: whether an equal model would have as many, given the other's.

    The chance is of the beta-binomial distribution that predicts one count from the other's (Jeffreys' prior).
    """
    count = len(candidate)
    ours, theirs = (sum(bool(each.alarms) for each in measures) for measures in (candidate, other))
    chance = float(stats.betabinom.sf(ours - 1, count, theirs + 0.5, count - theirs + 0.5))
    outcome: Outcome = "worse" if chance < ALARM_CHANCE else "passes"
    return AlarmVerdict(outcome, _by_kind(candidate), _by_kind(other), ours, theirs, chance)


def _by_kind(measures: Sequence[Measures]) -> dict[Alarm, int]:
    return dict(Counter(alarm for each in measures for alarm in each.alarms))
