"""A phase's prospects in words: whether and when its target is reached, what it ends with, whether it has turned."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from xtts_finetune.checkpoints.stopping import evaluations
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.report.content import Prospect
from xtts_finetune.tracking.journal import Happening
from xtts_finetune.tracking.pace import in_words
from xtts_finetune.trend.evaluations import LEAST, Evaluation
from xtts_finetune.trend.turning import Turn

if TYPE_CHECKING:
    from xtts_finetune.trend.forecast import Forecast


@dataclass(frozen=True)
class Course:
    """Of a phase, so far.

    Attributes:
        evaluations: their steps rise.
        target: Mel CE; None: none is asked for.
        last_step: that its epochs end with; None: it has ended, or that cannot be told.
        seconds: that a step takes here; None: not known.
        step: with which it goes on, of those that are trained; None: there is none.
        steps_per_epoch: None: not known yet.
        is_averaged: a part of the evaluations is of the weights' average, of which train clips were not measured.
        is_over: no more will come.
    """

    evaluations: Sequence[Evaluation]
    target: float | None
    last_step: int | None
    seconds: float | None
    step: int | None = None
    steps_per_epoch: float | None = None
    is_averaged: bool = False
    is_over: bool = False

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        rules: PhaseParams,
        seconds: float | None,
        step: int | None,
        planned: Happening | None,
        is_over: bool,
    ) -> Self:
        """By the rows of a phase's curve; of weights and their average the better counts, as for the target.

        Args:
            planned: the last step, and of how many epochs, as the trainer said; it is told by what epochs took, where
                one has ended.
        """
        seen = [row for row in rows if "eval/mel_ce" in row]
        an_epoch = _steps_per_epoch(seen, planned)
        last = None if is_over or planned is None else planned.step
        if not is_over and an_epoch is not None:
            last = seen[0]["step"] + round(an_epoch * (rules.epochs - seen[0]["epoch"]))
        is_averaged = any("eval_ema/mel_ce" in row for row in seen)
        return cls(evaluations(seen), rules.target_mel_ce, last, seconds, step, an_epoch, is_averaged, is_over)


def _steps_per_epoch(seen: Sequence[Mapping[str, Any]], planned: Happening | None) -> float | None:
    """By the ends of epochs; before there are two, by the step that was planned to be the last."""
    ends = ends_of_epochs(seen)
    if len(ends) > 1:
        first, last = min(ends), max(ends)
        return (ends[last] - ends[first]) / (last - first)
    if not seen or planned is None or planned.step is None or planned.epochs is None:
        return None
    return float(planned.step - seen[0]["step"]) / planned.epochs


def ends_of_epochs(seen: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """By epochs that are done the step at which the last of them was: each was evaluated, as was the beginning.

    Between them there may be evaluations, too.
    """
    ends: dict[int, int] = {}
    for row in seen:
        ends.setdefault(row["epoch"], row["step"])
    return ends


def prospect(course: Course) -> Prospect | None:
    """What the evaluations tell, and no more than they do; None: there are none."""
    seen = [each for each in course.evaluations if math.isfinite(each.eval)]
    best = min(seen, key=lambda each: each.eval, default=None)
    if best is None:
        return None
    turn = Turn.of(seen)
    turned = [_turned(turn)] if turn else []
    told = Prospect(lines=turned, is_overfitting=bool(turn and turn.is_overfitting))
    if course.target is not None and best.eval <= course.target:
        first = next(each for each in seen if each.eval <= course.target)
        better = f"; the best is {best.eval:.3f}, of step {best.step:,}" if best != first else ""
        reached = f"the target {course.target:.3f} was reached at step {first.step:,}, by {first.eval:.3f}{better}"
        if first is seen[0]:
            reached = f"the target {course.target:.3f} is no target: it begins below it, with {first.eval:.3f}{better}"
        return _with(told, [reached], never=False, steps_to_target=(0.0, 0.0))
    if turn:
        return _with(told, ["no forecast: it is not falling"])
    if len(seen) < LEAST:
        few = f"too few evaluations for a forecast: {len(seen)} of {LEAST}"
        return told if course.is_over else _with(told, [few])
    from xtts_finetune.trend.forecast import Forecast  # loads numpy

    trains = None if course.is_averaged else [each.train for each in seen]
    if forecast := Forecast.of([each.step for each in seen], [each.eval for each in seen], trains):
        return _ahead(told, course, forecast, seen[-1].step if course.step is None else course.step)
    return _with(told, ["no forecast: no falling curve fits the evaluations"])


def _with(told: Prospect, lines: Iterable[str], **figures: Any) -> Prospect:
    return told.model_copy(update={"lines": [*told.lines, *lines], **figures})


def _turned(turn: Turn) -> str:
    rises = f"eval Mel CE has risen by {turn.eval:.3f} since step {turn.step:,}, its best"
    if turn.is_overfitting:
        return f"{rises}, while train Mel CE fell by {-turn.train:.3f}: it overfits; the best is kept"
    if math.isnan(turn.train):
        return f"{rises}; what train Mel CE did is not known; the best is kept"
    return f"{rises}, and train Mel CE has not clearly fallen: a lower lr may go further; the best is kept"


def _ahead(told: Prospect, course: Course, forecast: "Forecast", last: int) -> Prospect:
    told = _with(told, [], levels_off=forecast.levels_off)
    left = 0 if course.last_step is None else course.last_step - last
    best_at_end = forecast.best_by(last + left) if left > 0 else None
    if course.target is not None:
        told = _to_target(told, course, forecast, course.target, last, best_at_end)
    if best_at_end is not None:
        end = f"{left:,} steps{_time(course, left)} are left, up to step {course.last_step:,}"
        line = f"{end}: by the fit its best is {_between(*best_at_end)} then"
        told = _with(told, [line], best_at_end=best_at_end)
    return told


def _to_target(
    told: Prospect,
    course: Course,
    forecast: "Forecast",
    target: float,
    last: int,
    best_at_end: tuple[float, float] | None,
) -> Prospect:
    level, wide = forecast.levels_off
    levels = f"the fit levels off at {level:.3f} ± {max(wide, 0.001):.3f}"
    is_above = level - wide > forecast.best
    above = f"above its best {forecast.best:.3f} and the" if is_above else "above the"
    may_be = best_at_end is not None and best_at_end[0] <= target  # by an evaluation that lies off
    if forecast.never(target) and not may_be:
        return _with(told, [f"not at this rate: {levels}, {above} target {target:.3f}"], never=True)
    told = _with(told, [], never=False)
    low, high = (max(0.0, step - last) for step in forecast.reaches(target))
    if math.isinf(low):
        return _with(told, [f"the target {target:.3f} may never be reached: {levels}"])
    if math.isinf(high):
        steps = "1 step" if _steps(low) == "1" else f"{_steps(low)} steps"
        earliest = f"in {steps}{_time(course, low)} at the earliest, if ever"
        return _with(told, [f"the target {target:.3f} {earliest}: {levels}"])
    until = f"{_steps(low)} to {_steps(high)} steps{_time(course, low, high)}"
    seconds = (low * course.seconds, high * course.seconds) if course.seconds else None
    line = f"the target {target:.3f} in {until}, four in five: {levels}"
    return _with(told, [line], steps_to_target=(low, high), seconds_to_target=seconds)


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
