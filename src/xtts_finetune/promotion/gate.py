"""The rules by which a version may become champion, and what they found: a table."""

from collections.abc import Iterator

from xtts_finetune.core.params import PromotionParams
from xtts_finetune.promotion.figures import Figures
from xtts_finetune.tracking.promotions import Rule


def loss_rules(candidate: Figures, champion: Figures, params: PromotionParams) -> list[Rule]:
    """On the eval split, in nats per token."""
    mel, text = params.mel_ce_margin, params.text_ce_tolerance
    return [
        Rule(
            name="eval Mel CE",
            candidate=candidate["mel_ce"],
            champion=champion["mel_ce"],
            demand=f"below by more than {mel:g}" if mel else "below",
            passed=candidate["mel_ce"] < champion["mel_ce"] - mel,
        ),
        Rule(
            name="eval Text CE",
            candidate=candidate["text_ce"],
            champion=champion["text_ce"],
            demand=f"at most {text:g} above",
            passed=candidate["text_ce"] <= champion["text_ce"] + text,
        ),
    ]


INTERVAL = 18  # characters


def not_measured(name: str, why: str) -> Rule:
    """A rule that nothing was found for does not pass."""
    return Rule(name=name, candidate=None, champion=None, demand="to be measured", passed=False, remark=why)


def table(rules: list[Rule], other: str = "champion") -> Iterator[str]:
    """A line each, with the champion's figure, or the base's, and what is asked of the candidate's."""
    width = max(len(rule.name) for rule in rules)
    words = ("FAIL", "pass") if other == "champion" else ("worse", "as good")
    asks, intervals = max(22, *(len(rule.demand) for rule in rules)), any(rule.interval for rule in rules)
    change = f"   {'change':<{INTERVAL}}" if intervals else ""
    asked = "asked of the candidate" if other == "champion" else "held against it"
    yield f"{'rule':<{width}}   candidate  {other:>9}   {asked:<{asks}}{change}".rstrip()
    for rule in rules:
        verdict = words[rule.passed] if other == "champion" or rule.candidate is not None else "not known"
        figures = f"{_shown(rule.candidate):>9}  {_shown(rule.champion):>9}"
        remark = f": {rule.remark}" if rule.remark else ""
        asked = f"{rule.demand:<{asks}}   {_interval(rule):<{INTERVAL}}" if intervals else f"{rule.demand:<{asks}}"
        yield f"{rule.name:<{width}}   {figures}   {asked}  {verdict}{remark}"


def _interval(rule: Rule) -> str:
    """Of the change, in the unit of what is asked: by it, not by the figures, is decided."""
    if rule.interval is None:
        return ""
    low, high = rule.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f} %" if "%" in rule.demand else f"{low:+.3f} to {high:+.3f}"


def _shown(figure: float | None) -> str:
    return "-" if figure is None else str(figure) if isinstance(figure, int) else f"{figure:.3f}"
