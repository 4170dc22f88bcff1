"""When a run ends, by its evaluations and the rules."""

from collections.abc import Sequence
from typing import Any

import pytest
from making.params import make_params

from xtts_finetune.checkpoints.stopping import ending
from xtts_finetune.trend.turning import Turn

FELL = [3.5, 3.2, 3.05, 2.97, 2.93, 2.91]


def rows(evals: Sequence[float], trains: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """An evaluation every 100 steps, each behind an epoch; train figures fall unless others are given."""
    trains = trains or [3.0 - 0.1 * number for number in range(len(evals))]
    pairs = enumerate(zip(evals, trains, strict=True))
    return [
        {"step": 100 * number, "epoch": number, "eval/mel_ce": mel, "mean/mel_ce": train}
        for number, (mel, train) in pairs
    ]


def end_of(evals: Sequence[float], trains: Sequence[float] | None = None, **rules: Any) -> tuple[int, str] | None:
    end = ending(rows(evals, trains), make_params(epochs=99, **rules).train_phase1)
    return None if end is None else (end.step, end.reason)


def test_a_phase_that_overfits_is_stopped_where_that_is_asked_for() -> None:
    evals = [*FELL, 2.95, 3.0, 3.1]
    assert end_of(evals) is None
    assert end_of(evals, stop_when_overfitting=True) == (
        700,
        "overfitting: eval Mel CE has risen by 0.090 since step 500, while train Mel CE fell by 0.200",
    )


def test_where_train_figures_rise_too_it_is_not_overfitting() -> None:
    trains = [3.4, 3.2, 3.0, 2.9, 2.8, 2.75, 2.9, 3.1]
    assert end_of([*FELL, 2.95, 3.0], trains, stop_when_overfitting=True) is None


@pytest.mark.parametrize("after", [[2.95, 2.90], [2.912, 2.911], [3.0]], ids=str)
def test_a_healthy_one_goes_on(after: list[float]) -> None:
    assert end_of([*FELL, *after], stop_when_overfitting=True) is None


def test_the_target_comes_first() -> None:
    assert end_of([*FELL, 2.95, 3.0], stop_when_overfitting=True, target_mel_ce=2.95) == (
        500,
        "target Mel CE 2.95 reached and held",
    )


def test_measures_of_two_kinds_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on under newer code: means of steps, with dropout, are higher than what is measured since."""
    found = rows([*FELL, 2.95, 3.0])
    for row in found[-2:]:
        row["eval_train/mel_ce"] = row["mean/mel_ce"] - 0.5 + 0.2 * (row["step"] == 700)
    assert ending(found, make_params(epochs=99, stop_when_overfitting=True).train_phase1) is None


def test_every_evaluation_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of hundreds on a plateau: each asks for all before it again."""
    fits: list[int] = []
    of = Turn.of
    monkeypatch.setattr(Turn, "of", lambda seen: fits.append(len(seen)) or of(seen))
    plateau = rows([*FELL, *(2.95 + 0.001 * (number % 3) for number in range(30))], [3.0 + n / 50 for n in range(36)])
    rules = make_params(epochs=99, stop_when_overfitting=True).train_phase1
    for count in range(1, len(plateau) + 1):
        ending(plateau[:count], rules)
    assert sorted(fits) == sorted(set(fits))
