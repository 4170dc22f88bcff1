"""What each evaluation brought, by the steps that really lie between them."""

import math
from collections.abc import Iterable
from typing import Any

from xtts_finetune.core.layout import PhaseName
from xtts_finetune.report.content import Phase
from xtts_finetune.report.course import evaluations
from xtts_finetune.report.progress import progress, rates


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(progress(list(evaluations([row for row in rows if "eval/mel_ce" in row]))))


def row(step: int, epoch: int, mel_ce: float, **others: float) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "eval/mel_ce": mel_ce, "eval/text_ce": 2.8, **others}


def test_a_rate_is_by_the_steps_between() -> None:
    """As the mission's: 0.499 in 400 steps, then 0.009 in 100; their report divided the first by 100 as well."""
    rows = [row(1_500, 0, 3.507), {"step": 1_700, "epoch": 0}, row(1_900, 1, 3.008, **{"mean/mel_ce": 3.1})]
    header, start, first, second = table([*rows, row(2_000, 2, 2.999)])
    assert header.split() == [
        *("step", "epoch", "eval", "Mel", "CE", "from", "the", "start", "from", "before"),
        *("per", "100", "steps"),
        *("train", "Mel", "CE", "eval", "Text", "CE", "(×", "0.01)"),
    ]
    assert start.split() == ["1500", "0", "3.507", "2.800", "0.0280"]
    assert first.split() == ["1900", "1", "3.008", "-0.499", "-0.499", "-0.1248", "3.100", "2.800", "0.0280"]
    assert second.split() == ["2000", "2", "2.999", "-0.508", "-0.009", "-0.0090", "2.800", "0.0280"]
    assert {len(line) for line in (header, start, first, second)} == {len(header)}


def test_of_many_the_first_and_the_last_are_shown() -> None:
    lines = table(row(100 * number, number, 4 - number / 100) for number in range(30))
    assert [line.split()[0] for line in lines[1:]] == ["0", "…", "2400", "2500", "2600", "2700", "2800", "2900"]


def test_one_evaluation_is_no_course() -> None:
    assert table([row(0, 0, 4.0)]) == []
    assert table([]) == []


def test_resumed_at_an_evaluation_that_was_made_twice() -> None:
    """No step lies between them, and no rate."""
    lines = table([row(0, 0, 4.0), row(100, 1, 3.0), row(100, 1, 3.0)])
    assert lines[-1].split() == ["100", "1", "3.000", "-1.000", "+0.000", "2.800", "0.0280"]


def phase(name: PhaseName, *rows: dict[str, Any]) -> Phase:
    made = dict.fromkeys(Phase.model_fields) | {"name": name, "state": "done", "steps_skipped": 0}
    return Phase.model_validate(made | {"saves_skipped": 0, "evaluations": list(evaluations(rows))})


def test_phases_are_held_beside_each_other_on_equal_terms() -> None:
    """As the mission's report did not: it took phase 2's last 100 steps for phase 1's 500."""
    first = phase("phase1", row(0, 0, 5.0), row(100, 1, 4.0), row(200, 2, 3.8), row(300, 3, 3.7))
    second = phase("phase2", row(300, 0, 3.7), row(400, 1, 3.65))
    whole, late = rates([first, second])
    assert whole.split("steps: ")[1] == "phase1 -0.433, phase2 -0.050"
    assert late.strip() == "phase 1's last 100 steps, as phase 2 has 100: -0.100"
    assert list(rates([first, phase("phase2", row(300, 0, 3.7))])) == []
    assert list(rates([first, phase("phase2", row(300, 0, math.nan), row(400, 1, 3.6))])) == []
