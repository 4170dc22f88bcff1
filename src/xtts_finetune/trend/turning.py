"""Whether a phase's eval Mel CE rises again, and whether that is because it learns its clips by heart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

from xtts_finetune.trend.evaluations import Evaluation

_IN_A_ROW = 2  # evaluations, each so far above the best
_FAR = 3.0  # standard deviations of an evaluation
_LEAST = 0.0005  # Mel CE: a fall that no report would show is none


@dataclass(frozen=True)
class Turn:
    """The eval Mel CE has risen.

    Attributes:
        step: of the best evaluation.
        eval: how much it rose since.
        train: how much the train Mel CE did; below 0: it fell.
    """

    step: int
    eval: float
    train: float

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> Self | None:
        """By the rule: the last two are both far above the best of those before, and the last does not clearly fall.

        Far: three standard deviations of an evaluation, and what the best of so many is off to the better side itself.
        None: it has not turned, as far as can be told.
        """
        seen = [each for each in evaluations if math.isfinite(each.eval)]
        before, last = seen[:-_IN_A_ROW], seen[-_IN_A_ROW:]
        if not before:
            return None
        best = min(before, key=lambda each: each.eval)
        if min(each.eval for each in last) <= best.eval:  # as of nearly every healthy phase: no need to fit
            return None
        from xtts_finetune.trend.forecast import noise_of  # loads numpy

        falling = before[: before.index(best) + 1]
        noise = noise_of([each.step for each in falling], [each.eval for each in falling])
        if min(each.eval for each in last) - best.eval <= (_FAR + _luck(len(before))) * noise:
            return None
        if last[-1].eval < last[0].eval - 2 * noise:  # it falls again, as behind the first steps of another rate
            return None
        # the first of a phase has no train figure: no step is before it
        train = next((each.train for each in seen[seen.index(best) :] if math.isfinite(each.train)), math.nan)
        return cls(best.step, last[-1].eval - best.eval, last[-1].train - train)

    @property
    def is_overfitting(self) -> bool:
        """Whether what is trained on goes on to fit better, and what is held out fits worse.

        By their change alone: so it does not matter that clips to train on fit better.
        """
        return self.train < -_LEAST


def _luck(count: int) -> float:
    """By how many standard deviations the best of so many equals is better than they are (Blom, 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
