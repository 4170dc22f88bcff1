"""When a target is reached: ranges hold the truth about as often as they say, and nothing is said by too little."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from making.benchmarks import benchmark

from xtts_finetune.trend.forecast import LEAST, Forecast, noise_of

truths = benchmark("forecast")


def falling(count: int, limit: float = 2.4, drop: float = 1.2, time: float = 300.0) -> tuple[list[int], list[float]]:
    """An exponential, evaluated every 100 steps from step 1000 on, without noise."""
    steps = [1_000 + 100 * number for number in range(count)]
    return steps, [limit + drop * math.exp(-(step - 1_000) / time) for step in steps]


@pytest.mark.parametrize("is_lasting", [False, True], ids=["deviations are independent", "deviations last"])
@pytest.mark.parametrize("kind", truths.KINDS)
def test_ranges_hold_the_truth_as_often_as_they_say(kind: str, is_lasting: bool) -> None:
    """80 % are asked for; of a thousand each 75 to 88 % are it. Not reachable is said wrongly of 5 % at the most."""
    tallies = dict(truths.forecasts(kind, 120, is_lasting))
    reached, never = tallies["reached later"], tallies["never reached"]
    assert 0.7 <= reached.held / reached.curves <= 0.92
    assert reached.open_ends / reached.curves <= 0.45
    assert reached.never / reached.curves <= 0.05
    assert never.never / never.curves >= 0.6


@pytest.mark.parametrize("kind", truths.KINDS)
def test_beside_train_clips_ranges_are_wide_and_right(kind: str) -> None:
    tallies = dict(truths.forecasts(kind, 120, with_trains=True))
    reached, never = tallies["reached later"], tallies["never reached"]
    assert reached.held / reached.curves >= 0.85
    assert reached.bests / reached.curves >= 0.85
    assert reached.never / reached.curves <= 0.05
    assert reached.open_ends / reached.curves <= 0.8
    assert never.never / never.curves >= 0.5


@pytest.mark.parametrize("run", ["phase1-lr1e-3-every10", "phase1-lr2e-3-every25", "phase1-lr3e-4-every25"])
def test_of_real_runs_ranges_hold_what_came(run: str) -> None:
    """Of `mini`, from random weights, and others than the constants were chosen by: lr 2e-3."""
    looks = truths.looks_at(truths.CURVES / f"{run}.csv")
    assert len(looks.widths) >= 15
    assert np.mean(looks.bests) >= 0.75
    assert np.mean(looks.steps) >= 0.65
    assert np.mean(looks.never) <= 0.05


def real(run: str) -> tuple[list[int], list[float], list[float]]:
    rows = (truths.CURVES / f"{run}.csv").read_text(encoding="utf-8").splitlines()[1:]
    steps, evals, trains = zip(*(map(float, row.split(",")) for row in rows), strict=True)
    return [int(step) for step in steps], list(evals), list(trains)


def test_what_is_learned_by_heart_is_seen_coming() -> None:
    """At step 200 eval Mel CE falls as it did; train Mel CE does so faster: at step 270 that is over."""
    steps, evals, trains = real("phase1-lr1e-3-every10")
    shown = steps.index(200) + 1
    alone = Forecast.of(steps[:shown], evals[:shown])
    beside = Forecast.of(steps[:shown], evals[:shown], trains[:shown])
    assert alone and beside
    assert not alone.best_by(402)[0] <= min(evals) <= alone.best_by(402)[1]
    assert beside.best_by(402)[0] <= min(evals) <= beside.best_by(402)[1]
    assert alone.best_by(402) == Forecast.of(steps[:shown], evals[:shown], [math.nan, *trains[1:shown]]).best_by(402)  # type: ignore[union-attr]


def test_where_it_turns_it_levels_off_before() -> None:
    steps, evals, trains = real("phase1-lr9e-4")
    shown = steps.index(402) + 1
    found = Forecast.of(steps[:shown], evals[:shown], trains[:shown])
    assert found
    level, wide = found.levels_off
    assert level - wide <= min(evals) <= level + wide


def test_a_curve_that_begins_to_fall_once_more_is_told_by_that() -> None:
    """As of adapters beside frozen weights: a fall, rest, and then the fall that counts."""
    steps = list(range(0, 1_000, 40))
    evals = [6.5 + 0.6 * math.exp(-step / 30) - max(0, step - 300) / 500 for step in steps]
    found = Forecast.of(steps, evals)
    assert found
    assert found.start >= 300
    assert found.reaches(4.9)[0] < 1_200


def test_a_rest_behind_the_end_of_an_epoch_is_not_where_it_levels_off() -> None:
    """Six evaluations that hardly differ, of seventeen: the phase went on to 3.958."""
    steps, evals, trains = real("phase2-lr1.2e-3-every10")
    for shown in range(steps.index(150) + 1, steps.index(180) + 1):
        found = Forecast.of(steps[:shown], evals[:shown], trains[:shown])
        assert found
        assert not found.never(4.0)
        low, high = found.best_by(206)
        assert low <= min(evals) <= high


def test_a_smooth_curve_is_known_closely() -> None:
    found = Forecast.of(*falling(12))
    assert found
    level, wide = found.levels_off
    assert level == pytest.approx(2.4, abs=0.02)
    assert wide < 0.05
    low, high = found.reaches(2.42)
    assert low < 1_000 + 300 * math.log(1.2 / 0.02) < high
    assert found.never(2.3)
    assert not found.never(2.45)


def test_what_was_reached_is_not_ahead() -> None:
    found = Forecast.of(*falling(12))
    assert found
    assert found.reaches(3.0) == (2_100, 2_100)


def test_farther_away_it_is_known_less() -> None:
    random = np.random.default_rng(1)
    steps, figures = falling(12, time=1_500)
    found = Forecast.of(steps, [figure + random.normal(0, 0.006) for figure in figures])
    assert found
    widths = [high - low for low, high in map(found.best_by, (2_200, 3_000, 6_000))]
    assert all(near < far for near, far in pairwise(widths))


@pytest.mark.parametrize("count", range(LEAST))
def test_of_too_few_nothing_is_said(count: int) -> None:
    assert Forecast.of(*falling(count)) is None


def test_a_figure_that_is_not_finite_counts_for_nothing() -> None:
    steps, figures = falling(8)
    with_gap = Forecast.of([*steps, 1_800], [*figures, math.nan])
    without = Forecast.of(steps, figures)
    assert with_gap and without
    assert with_gap.levels_off == without.levels_off
    assert Forecast.of(steps, [*figures[: LEAST - 1], *[math.inf] * (8 - LEAST + 1)]) is None


def test_what_rises_is_no_falling_curve() -> None:
    """Also where what is trained on falls: that it goes on is no reason that this should begin to."""
    steps, _ = falling(8)
    trains = [3.0 - 0.1 * number for number in range(8)]
    assert Forecast.of(steps, [3.0 + 0.1 * number for number in range(8)]) is None
    assert Forecast.of(steps, [3.0 + 0.1 * number for number in range(8)], trains) is None


def test_evaluations_of_one_step_are_no_trouble() -> None:
    steps, figures = falling(24)
    for again in range(1, 24):
        made = [*steps[:-again], *[steps[-again]] * again]
        with warnings.catch_warnings(action="error"):
            Forecast.of(made, figures, [figure - 0.1 * number for number, figure in enumerate(figures)])


def test_of_hundreds_whose_deviations_last_the_best_is_no_dream() -> None:
    """Their mean lies off as far as each of them."""
    held = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        steps = list(range(0, 2_001, 10))
        off = truths.lasting(random, [round(step / 2) for step in range(0, 4_001, 10)], 0.01)
        evals = [2.4 + 1.2 * math.exp(-step / 500) + each for step, each in zip(range(0, 4_001, 10), off, strict=True)]
        assert noise_of(steps, evals[:201]) < 0.015
        found = Forecast.of(steps, evals[:201])
        assert found
        assert found.start < 100, "what lasts for a while is no other curve"
        low, high = found.best_by(4_000)
        held.append(low <= min(evals) <= high)
    assert np.mean(held) >= 0.45


def test_thousands_have_the_noise_of_one() -> None:
    random = np.random.default_rng(5)
    steps = list(range(0, 4_000, 10))
    figures = [2.4 + 1.2 * math.exp(-step / 500) + random.normal(0, 0.01) for step in steps]
    assert noise_of(steps, figures) == pytest.approx(0.01, rel=0.25)
    found = Forecast.of(steps, figures)
    assert found
    assert np.median(found.noise) == pytest.approx(0.01, rel=0.25)


def test_thousands_of_evaluations_take_no_longer() -> None:
    """As with evaluations every few steps for days: neighbours are put together, and tell the same."""
    random = np.random.default_rng(2)
    steps = list(range(0, 20_000, 4))
    found = Forecast.of(steps, [2.4 + 1.2 * math.exp(-step / 5_000) + random.normal(0, 0.006) for step in steps])
    assert found
    level, wide = found.levels_off
    assert level == pytest.approx(2.4, abs=0.02)
    assert wide < 0.03


def test_equal_evaluations_say_equal_things() -> None:
    first, second = Forecast.of(*falling(9)), Forecast.of(*falling(9))
    assert first and second
    assert first.reaches(2.5) == second.reaches(2.5)
