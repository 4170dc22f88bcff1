"""When a run is at its end: a pure function of its evaluations and the rules.

The rules shape no weights. Where they change, a run goes on; one that has passed the point where the new rules end it
is ended there, as if it had never gone on.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.trend.turning import Evaluation, Turn

HELD = 2  # evaluations in a row at the target


@dataclass(frozen=True)
class Ending:
    """The evaluation that a run ends with, and why."""

    step: int
    epochs: int  # done
    reason: str


def ending(rows: Iterable[Mapping[str, Any]], rules: PhaseParams) -> Ending | None:
    """The first evaluation among a curve's `rows` that `rules` end the run with; None while it goes on."""
    best, since_best, at_target, seen = math.inf, 0, 0, list[Evaluation]()
    for row in rows:
        if "eval/mel_ce" not in row:
            continue
        seen.append(evaluation(row))
        mel_ce = seen[-1].eval
        best, since_best = (mel_ce, 0) if mel_ce < best else (best, since_best + 1)
        is_at_target = rules.target_mel_ce is not None and mel_ce <= rules.target_mel_ce
        at_target = at_target + 1 if is_at_target else 0
        reason = None
        if at_target >= HELD:
            reason = f"target Mel CE {rules.target_mel_ce} reached and held"
        elif rules.patience is not None and since_best >= rules.patience:
            reason = f"no better eval Mel CE in {rules.patience} evaluations"
        elif rules.stop_when_overfitting and (turn := Turn.of(seen)) and turn.is_overfitting:
            reason = (
                f"overfitting: eval Mel CE has risen by {turn.eval:.3f} since step {turn.step}, while train Mel CE "
                f"fell by {-turn.train:.3f}"
            )
        elif row["epoch"] >= rules.epochs:
            reason = "epochs done"
        if reason:
            return Ending(row["step"], row["epoch"], reason)
    return None


def evaluation(row: Mapping[str, Any]) -> Evaluation:
    """What a curve's row of an evaluation says of a phase: of weights and their average the better counts."""
    figures = [row["eval/mel_ce"], row.get("eval_ema/mel_ce", math.nan)]
    better = min(figures, key=lambda figure: (math.isnan(figure), figure))
    train = row.get("eval_train/mel_ce", row.get("mean/mel_ce", math.nan))  # runs of before have the latter alone
    return Evaluation(row["step"], better, train)


def ends_as(figures: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], rules: PhaseParams) -> bool:
    """Whether `rules` end a done run where it ended, and for the same reason.

    Args:
        figures: of its DONE.
        rows: of its curve.
    """
    now = ending(rows, rules)
    return now is not None and (now.step, now.reason) == (figures["last_step"], figures["stopped"])
