"""When a run is at its end: a pure function of its evaluations and the rules.

The rules shape no weights. Where they change, a run goes on; one that has passed the point where the new rules end it
is ended there, as if it had never gone on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.trend.evaluations import Evaluation
from xtts_finetune.trend.turning import Turn

HELD = 2  # evaluations in a row at the target


@dataclass(frozen=True)
class Ending:
    """The evaluation that a run ends with, and why."""

    step: int
    epochs: int  # done
    reason: str


def ending(rows: Iterable[Mapping[str, Any]], rules: PhaseParams) -> Ending | None:
    """The first evaluation among a curve's `rows` that `rules` end the run with; None while it goes on."""
    best, since_best, at_target = math.inf, 0, 0
    evaluated = [row for row in rows if "eval/mel_ce" in row]
    seen = evaluations(evaluated)
    for number, row in enumerate(evaluated, 1):
        mel_ce = seen[number - 1].eval
        best, since_best = (mel_ce, 0) if mel_ce < best else (best, since_best + 1)
        is_at_target = rules.target_mel_ce is not None and mel_ce <= rules.target_mel_ce
        at_target = at_target + 1 if is_at_target else 0
        reason = None
        if at_target >= HELD:
            reason = f"target Mel CE {rules.target_mel_ce} reached and held"
        elif rules.patience is not None and since_best >= rules.patience:
            reason = f"no better eval Mel CE in {rules.patience} evaluations"
        elif rules.stop_when_overfitting and (turn := _turn(seen[:number])) and turn.is_overfitting:
            reason = (
                f"overfitting: eval Mel CE has risen by {turn.eval:.3f} since step {turn.step}, while train Mel CE "
                f"fell by {-turn.train:.3f}"
            )
        elif row["epoch"] >= rules.epochs:
            reason = "epochs done"
        if reason:
            return Ending(row["step"], row["epoch"], reason)
    return None


@lru_cache(maxsize=4096)
def _turn(seen: tuple[Evaluation, ...]) -> Turn | None:
    """Remembered, as every evaluation asks for all before it again, and a fit takes 30 ms."""
    return Turn.of(seen)


def evaluations(rows: Sequence[Mapping[str, Any]]) -> tuple[Evaluation, ...]:
    """What a curve's rows of evaluations say of a phase: of weights and their average the better counts.

    Train figures are of one kind throughout: a run that began under code which did not measure train clips has none of
    before; one that ended under it has the means of its steps.
    """
    kind = "eval_train/mel_ce" if any("eval_train/mel_ce" in row for row in rows) else "mean/mel_ce"
    return tuple(Evaluation(row["step"], _better(row), row.get(kind, math.nan)) for row in rows)


def _better(row: Mapping[str, Any]) -> float:
    figures = [row["eval/mel_ce"], row.get("eval_ema/mel_ce", math.nan)]
    return float(min(figures, key=lambda figure: (math.isnan(figure), figure)))


def ends_as(figures: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], rules: PhaseParams) -> bool:
    """Whether `rules` end a done run where it ended, and for the same reason.

    Args:
        figures: of its DONE.
        rows: of its curve.
    """
    now = ending(rows, rules)
    return now is not None and (now.step, now.reason) == (figures["last_step"], figures["stopped"])
