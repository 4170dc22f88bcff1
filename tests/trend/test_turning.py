"""A curve that rises again is found soon, and a healthy one is not accused."""

import math

import numpy as np
import pytest
from making.benchmarks import benchmark

from xtts_finetune.trend.evaluations import Evaluation
from xtts_finetune.trend.turning import Turn

truths = benchmark("forecast")


def course(evals: list[float], trains: list[float] | None = None) -> list[Evaluation]:
    """Evaluations every 100 steps; the train figures fall unless others are given."""
    trains = trains or [3.0 - 0.1 * number for number in range(len(evals))]
    return [Evaluation(100 * number, *pair) for number, pair in enumerate(zip(evals, trains, strict=True))]


FELL = [3.5, 3.2, 3.05, 2.97, 2.93, 2.91]


def test_made_overfits_are_found_and_healthy_curves_are_not_accused() -> None:
    healthy, within, never = truths.turned(60)
    assert healthy <= 0.05
    assert within >= 0.95
    assert never <= 0.05


def test_a_long_rest_is_no_turn() -> None:
    """Of hundreds of evaluations that differ by chance alone the best is far below the others."""
    random = np.random.default_rng(4)
    for _ in range(20):
        evals = [2.4 + random.normal(0, 0.01) for _ in range(200)]
        seen = course([3.5, 3.0, 2.6, *evals])
        assert not any(Turn.of(seen[:count]) for count in range(150, 204, 3))


def test_what_a_curve_went_through_before_hides_no_rise() -> None:
    """Adapters fall, rest and fall once more: that is no noise, by which a rise would be none."""
    rows = (truths.CURVES / "lora-phase1-lr3e-3-every25.csv").read_text(encoding="utf-8").splitlines()[1:]
    evals = [float(row.split(",")[1]) for row in rows]
    random = np.random.default_rng(6)
    evals += [evals[-1] + 0.015 * number + random.normal(0, 0.006) for number in range(1, 9)]
    turn = Turn.of(course(evals))
    assert turn
    assert turn.is_overfitting


def test_one_that_rests_above_its_best_is_said_to_at_nearly_every_look() -> None:
    random = np.random.default_rng(7)
    evals = [2.4 + 1.2 * math.exp(-number / 3) + random.normal(0, 0.01) for number in range(20)]
    evals += [2.6 + random.normal(0, 0.01) for _ in range(40)]
    seen = course(evals)
    looks = [Turn.of(seen[:count]) is not None for count in range(23, 61)]
    assert np.mean(looks) >= 0.7


@pytest.mark.parametrize(("fall", "is_overfitting"), [(0.0001, False), (0.001, True)])
def test_a_fall_that_no_report_would_show_is_none(fall: float, is_overfitting: bool) -> None:
    """It said "while train Mel CE fell by 0.000: it overfits"."""
    turn = Turn.of(course([2.0, 2.06, 2.058], [1.9, 1.9, 1.9 - fall]))
    assert turn
    assert turn.is_overfitting == is_overfitting


def test_it_says_since_when_and_by_how_much() -> None:
    turn = Turn.of(course([*FELL, 2.95, 3.0]))
    assert turn
    assert turn.step == 500
    assert turn.eval == pytest.approx(0.09)
    assert turn.is_overfitting


def test_where_train_figures_rise_too_it_is_not_by_heart() -> None:
    turn = Turn.of(course([*FELL, 2.95, 3.0], [3.4, 3.2, 3.0, 2.9, 2.8, 2.75, 2.9, 3.1]))
    assert turn
    assert not turn.is_overfitting


@pytest.mark.parametrize("after", [[], [3.0], [2.95, 2.90], [2.915, 2.913], [math.nan, 3.0]], ids=str)
def test_one_that_is_off_is_no_turn(after: list[float]) -> None:
    """One alone, one that was made good, two within what evaluations differ by anyway, and one that failed."""
    assert Turn.of(course([*FELL, *after])) is None


def test_a_warm_start_may_overfit_from_its_first_evaluation_on() -> None:
    """Which has no train figure: no step is before it."""
    turn = Turn.of(course([4.17, 4.22, 4.30, 4.40], [math.nan, 3.9, 3.6, 3.2]))
    assert turn
    assert (turn.step, turn.train) == (0, pytest.approx(-0.7))
    assert turn.is_overfitting


def test_the_first_steps_of_another_rate_are_no_turn() -> None:
    """Of a warm start at lr 1.2e-3: a bump, that is over with the next evaluation."""
    assert Turn.of(course([4.456, 4.585, 4.498], [3.318, 3.404, 3.246])) is None


def test_it_may_turn_at_once() -> None:
    turn = Turn.of(course([3.0, 3.1, 3.2]))
    assert turn
    assert turn.step == 0


def test_of_nothing_nothing_is_said() -> None:
    assert Turn.of([]) is None
    assert Turn.of(course([3.0, 3.1])) is None
