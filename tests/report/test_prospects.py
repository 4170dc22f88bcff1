"""What is said of a phase's target: never more than its evaluations tell."""

import math
from typing import Any

import numpy as np
import pytest
from making.params import make_params

from xtts_finetune.report.prospects import Course, prospect
from xtts_finetune.trend.evaluations import Evaluation


def said(figures: dict[int, float], target: float | None = 2.5, train_falls: bool = True, **others: Any) -> str:
    """Of a phase with these evaluations: step → Mel CE."""
    seen = [
        Evaluation(step, figure, 3.0 + (-0.1 if train_falls else 0.1) * number if number else math.nan)
        for number, (step, figure) in enumerate(figures.items())
    ]
    settings = {"last_step": None, "seconds": None, **others}
    found = prospect(Course(seen, target, **settings))
    return "\n".join(found.lines) if found else ""


def lines_of(course: Course) -> str:
    found = prospect(course)
    assert found
    return "\n".join(found.lines)


def curve(count: int, limit: float, wiggle: float = 0.004) -> dict[int, float]:
    """An exponential from 1.2 above its limit, every 100 steps, each evaluation a little off."""
    return {
        1_000 + 100 * number: limit + 1.2 * math.exp(-number / 3) + wiggle * (-1) ** number for number in range(count)
    }


def test_the_numbers_of_the_mission() -> None:
    """Their report said "98 steps to go": the target was half a nat away, and the last 100 steps had brought 0.009."""
    told = said({1_500: 3.507, 1_900: 3.008, 2_000: 2.999}, seconds=3.0)
    assert told == "too few evaluations for a forecast: 3 of 5"
    assert said({1_500: 3.507, 1_900: 3.008, 2_000: 2.999}, is_over=True) == "", "no more will come"
    more = {1_500: 3.507, 1_600: 3.262, 1_700: 3.129, 1_800: 3.052, 1_900: 3.008, 2_000: 2.999}
    assert "not at this rate: the fit levels off at 2.9" in said(more)
    assert "to go" not in said(more)


def test_it_was_reached() -> None:
    expected = "the target 2.500 was reached at step 1,600, by 2.466; the best is 2.412, of step 1,700"
    assert said(curve(8, 2.3)) == expected


def test_out_of_reach() -> None:
    assert "not at this rate: the fit levels off at 2.900 ± 0.0" in said(curve(12, 2.9))


def test_within_reach_it_is_a_range_of_steps_and_of_time() -> None:
    told = said(curve(5, 2.3), seconds=36.0)
    assert told.startswith("the target 2.500 in ")
    assert " steps (" in told
    assert " h" in told or " min" in told
    assert "four in five: the fit levels off at" in told


def test_what_takes_ages_is_not_promised() -> None:
    """A power law that falls for ever: at 2.5 after a thousand times what was trained."""
    slow = {100 * number: 2.0 + 2.0 * (1 + number) ** -0.15 for number in range(12)}
    told = said(slow, seconds=10.0)
    assert "not at this rate: the fit levels off at" in told
    assert " to " not in told


def test_what_may_never_come_has_no_end() -> None:
    """The target lies within what the fit levels off at."""
    told = said(curve(7, 2.49), seconds=10.0)
    assert " at the earliest, if ever: the fit levels off at" in told
    assert " to " not in told


def test_two_lines_do_not_contradict_each_other() -> None:
    """The curve comes to rest above the target, and evaluations lie off it: one to come may be there."""
    random = np.random.default_rng(0)
    figures = {100 * number: 2.40 + math.exp(-number / 2) + random.normal(0, 0.012) for number in range(14)}
    target = min(figures.values()) - 0.005
    assert "not at this rate" in said(figures, target=target), "with none to come"
    told = said(figures, target=target, last_step=6_000)
    assert "not at this rate" not in told
    assert "if ever: the fit levels off at" in told or "may never be reached" in told
    assert "not at this rate" in said(figures, target=2.3, last_step=6_000)


def test_where_it_ends() -> None:
    told = said(curve(8, 2.7), last_step=3_000, seconds=2.0)
    assert "1,300 steps (43 min) are left, up to step 3,000: by the fit its best is 2.6" in told


def test_overfitting_is_said_and_nothing_is_forecast() -> None:
    told = said(curve(8, 2.7) | {1_800: 2.95, 1_900: 3.0})
    assert "while train Mel CE fell by 0.200: it overfits; the best is kept" in told
    assert "no forecast: it is not falling" in told
    assert "levels off" not in told


def test_where_both_rise_the_rate_is_too_high() -> None:
    told = said(curve(8, 2.7) | {1_800: 2.95, 1_900: 3.0}, train_falls=False)
    assert "train Mel CE has not clearly fallen: a lower lr may go further" in told


def test_without_a_target_none_is_spoken_of() -> None:
    assert said(curve(8, 2.7), target=None) == ""
    assert "target" not in said(curve(8, 2.7), target=None, last_step=3_000)


@pytest.mark.parametrize("figures", [{}, {100: math.nan}])
def test_nothing_was_evaluated(figures: dict[int, float]) -> None:
    assert said(figures) == ""


def test_of_weights_and_their_average_the_better_counts() -> None:
    rows = [
        {"step": 100 * number, "epoch": number, "eval/mel_ce": 3.0, "eval_ema/mel_ce": 2.4 + number}
        for number in range(2)
    ]
    course = Course.of(rows, make_params(epochs=5, target_mel_ce=2.5).train_phase1, None, None, None, is_over=False)
    assert [each.eval for each in course.evaluations] == [2.4, 3.0]
    assert course.last_step == 500
    assert "the target 2.500 is no target: it begins below it, with 2.400" in lines_of(course)


def test_weights_that_failed_do_not_hide_their_average() -> None:
    rows = [{"step": 0, "epoch": 0, "eval/mel_ce": math.nan, "eval_ema/mel_ce": 2.4}]
    course = Course.of(rows, make_params(target_mel_ce=2.5).train_phase1, None, None, None, is_over=True)
    assert "the target 2.500 is no target: it begins below it, with 2.400" in lines_of(course)


def test_the_length_of_an_epoch_is_told_by_their_ends() -> None:
    """Evaluations between have the number of the epoch before: they are not its end."""
    steps = {0: 0, 50: 0, 100: 1, 150: 1, 200: 2}
    rows = [{"step": step, "epoch": epoch, "eval/mel_ce": 4.0 - step / 1_000} for step, epoch in steps.items()]
    rules = make_params().train_phase1.model_copy(update={"epochs": 5})
    for seen in (rows, rows[:3], rows[:4]):
        course = Course.of(seen, rules, None, None, None, is_over=False)
        assert (course.steps_per_epoch, course.last_step) == (100, 500)
