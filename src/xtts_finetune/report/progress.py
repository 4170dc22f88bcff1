"""A phase's evaluations as a table: what each brought, by the steps that really lie between them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from xtts_finetune.core.constants import TEXT_WEIGHT

_SHOWN = 6  # evaluations, the last ones
_COLUMNS = (
    *("      step", "epoch", "eval Mel CE", "from the start", "per 100 steps"),
    *("train Mel CE", "eval Text CE", "(× 0.01)"),
)


def progress(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a table: the first evaluation, which all is held against, and the last ones.

    "per 100 steps" is since the evaluation before, however many steps that is ago. Text CE also × 0.01, as Coqui prints
    it. Nothing where there is no evaluation but the first.

    Args:
        rows: of the phase's curve.
    """
    seen = [row for row in rows if "eval/mel_ce" in row]
    if len(seen) < 2:
        return
    yield _aligned(_COLUMNS)
    yield _line(seen[0], seen[0], None)
    after = [*pairwise(seen)]
    if len(after) > _SHOWN:
        yield _aligned(["…"])
    yield from (_line(row, seen[0], before) for before, row in after[-_SHOWN:])


def _line(row: Mapping[str, Any], start: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    change = rate = ""
    if before:
        change = f"{row['eval/mel_ce'] - start['eval/mel_ce']:+.3f}"
        steps = row["step"] - before["step"]
        rate = f"{100 * (row['eval/mel_ce'] - before['eval/mel_ce']) / steps:+.4f}" if steps else ""
    train, text = row.get("mean/mel_ce", math.nan), row.get("eval/text_ce", math.nan)
    figures = f"{row['eval/mel_ce']:.3f}", change, rate, _shown(train, 3), _shown(text, 3)
    return _aligned([str(row["step"]), str(row.get("epoch", 0)), *figures, _shown(text * TEXT_WEIGHT, 4)])


def _shown(figure: float, digits: int) -> str:
    return "" if math.isnan(figure) else f"{figure:.{digits}f}"


def _aligned(cells: Iterable[str]) -> str:
    return "   ".join(f"{cell:>{len(column)}}" for cell, column in zip(cells, _COLUMNS, strict=False))
