"""A phase's prospects in words: whether and when its target is reached, what it ends with, whether it has turned."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from xtts_finetune.checkpoints.stopping import evaluation
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.tracking.pace import in_words
from xtts_finetune.trend.forecast import LEAST, Forecast
from xtts_finetune.trend.turning import Evaluation, Turn

_FAR = 20  # times what was trained so far: nobody trains so long


@dataclass(frozen=True)
class Course:
    """Of a phase, so far.

    Attributes:
        evaluations: their steps rise.
        target: Mel CE; None: none is asked for.
        last_step: that its epochs end with; None: it has ended, or that cannot be told.
        seconds: that a step takes here; None: not known.
    """

    evaluations: Sequence[Evaluation]
    target: float | None
    last_step: int | None
    seconds: float | None

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], rules: PhaseParams, seconds: float | None, is_over: bool) -> Self:
        """By the rows of a phase's curve; of weights and their average the better counts, as for the target."""
        seen = [row for row in rows if "eval/mel_ce" in row]
        evaluations = [evaluation(row) for row in seen]
        last = None
        if not is_over and seen and seen[-1]["epoch"] > seen[0]["epoch"]:
            an_epoch = (seen[-1]["step"] - seen[0]["step"]) / (seen[-1]["epoch"] - seen[0]["epoch"])
            last = seen[0]["step"] + round(an_epoch * (rules.epochs - seen[0]["epoch"]))
        return cls(evaluations, rules.target_mel_ce, last, seconds)


def prospects(course: Course) -> Iterator[str]:
    """Lines: what the evaluations tell, and no more than they do."""
    seen = [each for each in course.evaluations if math.isfinite(each.eval)]
    best = min(seen, key=lambda each: each.eval, default=None)
    if best is None:
        return
    turn = Turn.of(seen)
    if turn:
        yield _turned(turn)
    if course.target is not None and best.eval <= course.target:
        first = next(each for each in seen if each.eval <= course.target)
        better = f"; the best is {best.eval:.3f}, of step {best.step:,}" if best != first else ""
        yield f"the target {course.target:.3f} was reached at step {first.step:,}, by {first.eval:.3f}{better}"
    elif turn:
        yield "no forecast: it is not falling"
    elif forecast := Forecast.of([each.step for each in seen], [each.eval for each in seen]):
        yield from _ahead(course, forecast, seen[-1].step)
    elif len(seen) < LEAST:
        yield f"too few evaluations for a forecast: {len(seen)} of {LEAST}"
    else:
        yield "no forecast: no falling curve fits the evaluations"


def _turned(turn: Turn) -> str:
    rises = f"eval Mel CE has risen by {turn.eval:.3f} since step {turn.step:,}, its best"
    if turn.is_overfitting:
        return f"{rises}, while train Mel CE fell by {-turn.train:.3f}: it overfits; the best is kept"
    if math.isnan(turn.train):
        return f"{rises}; what train Mel CE did is not known; the best is kept"
    return f"{rises}, and train Mel CE has not fallen: a lower lr may go further; the best is kept"


def _ahead(course: Course, forecast: Forecast, last: int) -> Iterator[str]:
    if course.target is not None:
        yield _to_target(course, forecast, course.target, last)
    if course.last_step is not None and course.last_step > last:
        low, high = forecast.figures_at(course.last_step)
        left = course.last_step - last
        end = f"{left:,} steps{_time(course, left)} are left, up to step {course.last_step:,}"
        yield f"{end}: by the fit it is at {_between(low, high)} then"


def _to_target(course: Course, forecast: Forecast, target: float, last: int) -> str:
    level, wide = forecast.levels_off
    levels = f"the fit levels off at {level:.2f} ± {max(wide, 0.005):.2f}"
    if forecast.never(target):
        return f"not at this rate: {levels}, above the target {target:.3f}"
    low, high = (max(0.0, step - last) for step in forecast.reaches(target))
    far = _FAR * forecast.span
    if low > far:
        return f"the target {target:.3f} may never be reached: {levels}"
    if high > far:
        return f"the target {target:.3f} in {_steps(low)} steps{_time(course, low)} at the earliest, if ever: {levels}"
    until = f"{_steps(low)} to {_steps(high)} steps{_time(course, low, high)}"
    return f"the target {target:.3f} in {until}, four in five: {levels}"


def _between(low: float, high: float) -> str:
    return f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"


def _steps(count: float) -> str:
    """By two digits: no more are known."""
    digits = max(0, math.floor(math.log10(count)) - 1) if count >= 1 else 0
    return f"{max(1, round(count / 10**digits)) * 10**digits:,}"


def _time(course: Course, *steps: float) -> str:
    if course.seconds is None:
        return ""
    return f" ({' to '.join(in_words(count * course.seconds) for count in steps)})"
