"""A phase's evaluations as a table, and how fast phases fell: by the steps that really lie between evaluations."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from xtts_finetune.report.content import Evaluation, Phase

T = TypeVar("T")

_SHOWN = 6  # evaluations, the last ones
COLUMNS = (
    *("      step", "epoch", "eval Mel CE", "from the start", "from before", "per 100 steps"),
    *("train Mel CE", "eval Text CE", "(× 0.01)"),
)


def progress(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Lines of a table: the first evaluation, which all is held against, and the last ones.

    "per 100 steps" is since the evaluation before, however many steps that is ago. Text CE also × 0.01, as Coqui prints
    it. Nothing where there is no evaluation but the first.
    """
    if len(evaluations) < 2:
        return
    yield _aligned(COLUMNS)
    yield _aligned(cells(evaluations[0]))
    after = evaluations[1:]
    if len(after) > _SHOWN:
        yield _aligned(["…"])
    yield from (_aligned(cells(each)) for each in after[-_SHOWN:])


def is_in_sight(target: float, figures: Sequence[float]) -> bool:
    """Whether a picture of these Mel CE has room for the target, and is still one of them: for half of its height."""
    low, high = min(figures), max(figures)
    return max(low - target, target - high) <= high - low


def thinned(all_of_them: Sequence[T], most: int) -> Sequence[T]:
    """The first, and the last ones."""
    return all_of_them if len(all_of_them) <= most else [all_of_them[0], *all_of_them[1 - most :]]


def cells(each: Evaluation) -> list[str]:
    """Of a row, as COLUMNS."""
    return [
        str(each.step),
        f"{math.floor(100 * each.epoch) / 100:.2f}".removesuffix(".00"),
        _shown(each.eval_mel_ce, ".3f"),
        _shown(each.from_start, "+.3f"),
        _shown(each.from_before, "+.3f"),
        _shown(each.per_100_steps, "+.4f"),
        _shown(each.train_mel_ce, ".3f"),
        _shown(each.eval_text_ce, ".3f"),
        _shown(each.eval_text_ce_weighted, ".4f"),
    ]


def rates(phases: Iterable[Phase]) -> Iterator[str]:
    """How fast both phases fell, and on equal terms: over as many steps, the last of phase 1, the first of phase 2."""
    told = [phase.evaluations for phase in phases if len(phase.evaluations) > 1]
    if len(told) < 2:
        return
    first, second = told
    whole = [rate for each in told if (rate := rate_between(each[0], each[-1])) is not None]
    if len(whole) < 2:
        return
    yield f"rates      eval Mel CE per 100 steps: phase1 {whole[0]:+.3f}, phase2 {whole[1]:+.3f}"
    span = second[-1].step - second[0].step
    near = min(first[:-1], key=lambda each: abs(first[-1].step - each.step - span))
    late = rate_between(near, first[-1])
    if late is not None and near != first[0]:
        yield f"           phase 1's last {first[-1].step - near.step} steps, as phase 2 has {span}: {late:+.3f}"


def rate_between(before: Evaluation, after: Evaluation) -> float | None:
    """Change of eval Mel CE in 100 steps; None: no step lies between, or one is not finite."""
    steps = after.step - before.step
    if not steps or before.eval_mel_ce is None or after.eval_mel_ce is None:
        return None
    return 100 * (after.eval_mel_ce - before.eval_mel_ce) / steps


def _shown(figure: float | None, form: str) -> str:
    return "" if figure is None else format(figure, form)


def _aligned(row: Iterable[str]) -> str:
    return "   ".join(f"{cell:>{len(column)}}" for cell, column in zip(row, COLUMNS, strict=False))
