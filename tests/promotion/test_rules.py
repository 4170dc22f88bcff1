"""What a comparison of speech becomes among the rules of the gate."""

import re

import pytest

from xtts_finetune.measures.paired import AlarmVerdict, Comparison, Outcome, Verdict
from xtts_finetune.measures.rules import RULES
from xtts_finetune.promotion.gate import table
from xtts_finetune.promotion.hearing import rules_of


@pytest.mark.parametrize("outcome", ["worse", "not measured"])
def test_what_could_not_be_measured_does_not_pass(outcome: Outcome) -> None:
    """Worse without a figure: it was measured in fewer sentences than of the champion."""
    verdicts = tuple(Verdict(rule, outcome, 12, reason="8 of 20 not: no speech") for rule in RULES)
    rules = rules_of(Comparison(20, verdicts, AlarmVerdict("passes", {}, {}, 0, 0)))
    assert [rule.passed for rule in rules] == [*(False for _ in RULES), True]
    lines = list(table(rules))
    assert re.search(r"to be measured +FAIL: 8 of 20 not: no speech$", lines[1])
    beside_base = list(table(rules, "base"))
    assert beside_base[1].endswith("not known: 8 of 20 not: no speech")


def test_names_have_no_comma_in_lists_of_them() -> None:
    verdicts = tuple(Verdict(rule, "not measured", 0) for rule in RULES)
    assert not any("," in rule.name for rule in rules_of(Comparison(1, verdicts, AlarmVerdict("passes", {}, {}, 0, 0))))
