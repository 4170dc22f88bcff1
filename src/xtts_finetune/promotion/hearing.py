"""How two versions sound: both say the same held sentences, which are measured and compared in pairs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.constants import LANGUAGES, SAMPLE_RATE, Language
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import SplitName, Workspace
from xtts_finetune.core.params import PromotionParams
from xtts_finetune.data.audio import dequantise
from xtts_finetune.data.features import Entry, FeatureReader
from xtts_finetune.measures.measured import Measure, Measurer, Measures, Recording
from xtts_finetune.measures.paired import LEAST_PAIRS, Comparison, Verdict
from xtts_finetune.promotion.figures import NotMeasured, NotThere, reasons
from xtts_finetune.promotion.gate import not_measured
from xtts_finetune.speech.speaker import load_speaker
from xtts_finetune.tracking.promotions import Rule

Value = TypeVar("Value")

VOICE = 20  # training clips that the speaker is known by
_NAMES: dict[Measure, str] = {
    "mos": "predicted MOS",
    "similarity": "voice similarity",
    "error": "wrong sounds",
    "letters_per_second": "letters a second",
    "seconds_per_letter": "seconds a letter",
    "gap": "longest pause (s)",
    "pitch": "pitch (semitones)",
    "pitch_range": "pitch range (semitones)",
    "repeat": "repetition",
}
OF_BASE = f"{_NAMES['similarity']} (base)"
_ALARMS = "alarms"


@dataclass(frozen=True)
class Hearing:
    """What versions are to say, and what it is measured by."""

    entries: list[Entry]
    measurer: Measurer

    @classmethod
    def planned(cls, workspace: Workspace, params: PromotionParams) -> Self:
        """Nothing is loaded yet, but what cannot be measured is known.

        Raises:
            UserError: by these settings no version could pass, on this eval split.
            NotMeasured: there is no prepared/.
        """
        try:
            eval_split, train_split = (list(_entries(workspace, split)) for split in ("eval", "train"))
        except UserError as error:
            raise NotMeasured(reasons(error)) from None
        spoken = _commonest(entry.language for entry in eval_split)
        language = next(each for each in LANGUAGES if each == spoken)  # prepare takes no other
        entries = _spread([entry for entry in eval_split if entry.language == language], params.sentences)
        folder = None if params.recogniser is None else workspace.root / params.recogniser
        _refuse_what_cannot_pass(len(entries), language, folder)
        return cls(entries, Measurer(_voice(workspace, train_split, language), language, folder))

    def of(self, folder: Path, name: str, is_tuned: bool = True) -> list[Measures]:
        """Of every sentence, as the model in a bundle says it.

        Args:
            is_tuned: False: as its base does, in the same voice.

        Raises:
            NotMeasured: its vocabulary cannot spell one.
            NotThere: its weights, or for the base the base's own, are not here, or cannot be used.
            UserError: the recogniser cannot be used.
        """
        try:
            speaker = load_speaker(folder, is_tuned)
        except UserError as error:
            raise NotThere(reasons(error)) from None
        measures = []
        for entry in Bar(self.entries, desc=f"{name} speaks", unit="sentence", leave=False):
            try:
                samples, rate = speaker.speak(entry.text, entry.language)
            except ValueError as error:
                raise NotMeasured(f"{name}: {error}") from None
            measures.append(self.measurer.measure(samples, rate, entry.text))
        return measures


def _refuse_what_cannot_pass(sentences: int, language: Language, recogniser: Path | None) -> None:
    """Before minutes of measuring.

    Raises:
        UserError: naming what of params.yaml to change.
    """
    problems, silent = [], "or promotion.sentences: 0, by which neither is heard"
    if language != "en" and recogniser is None:
        what = f"is null, and the eval split is in {language}: a recogniser comes along for English alone"
        problems.append(Problem("params.yaml: promotion.recogniser", what, f"name a folder with one, {silent}"))
    if recogniser is not None and not recogniser.is_dir():
        what = f"there is no folder {recogniser}"
        problems.append(Problem("params.yaml: promotion.recogniser", what, f"name a folder with one, {silent}"))
    if sentences < LEAST_PAIRS:
        what = f"{sentences} of the eval split can be said in {language}, and {LEAST_PAIRS} are the least to compare"
        remedy = f"ask for more, record more (or raise prepare.eval_fraction), {silent}"
        problems.append(Problem("params.yaml: promotion.sentences", what, remedy))
    if problems:
        raise UserError("no version could pass", problems)


def rules_of(comparison: Comparison) -> list[Rule]:
    """A comparison as rules of the gate."""
    alarms = comparison.alarms
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(alarms.candidate.items()))
    return [
        *(_rule(verdict) for verdict in comparison.verdicts),
        Rule(
            name=_ALARMS,
            candidate=alarms.candidate_sentences,
            champion=alarms.other_sentences,
            demand=f"not clearly more, of {comparison.sentences}",
            passed=alarms.outcome == "passes",
            remark=kinds,
        ),
    ]


def rule_of_base(beside_base: Sequence[Rule]) -> Rule:
    """What is asked of a version beside its base: to be no less like the speaker than without any training.

    The base may well sound better than the recordings are, say fewer wrong sounds or speak at another pace.
    """
    own = _NAMES["similarity"]
    rule = next(rule for rule in beside_base if rule.name == own)
    return rule.model_copy(update={"name": OF_BASE, "demand": f"{rule.demand}, than the base's"})


def _rule(verdict: Verdict) -> Rule:
    rule = verdict.rule
    name = _NAMES[rule.measure]
    if verdict.low is None or verdict.high is None:  # too few sentences, or fewer than of the other
        return not_measured(name, verdict.reason)
    margin = f"{rule.margin:.0%}" if rule.kind == "ratio" else f"{rule.margin:g}"
    demand = {"lower": "not lower", "higher": "not higher", "both": "as it is"}[rule.worse]
    return Rule(
        name=name,
        candidate=verdict.candidate,
        champion=verdict.other,
        demand=f"{demand}, within {margin}",
        passed=verdict.outcome == "passes",
        interval=(verdict.low, verdict.high),
    )


def _entries(workspace: Workspace, split: SplitName) -> Iterator[Entry]:
    reader = FeatureReader(workspace.prepared, split)
    return (reader[index].entry for index in range(len(reader)))


def _voice(workspace: Workspace, entries: Sequence[Entry], language: Language) -> list[Recording]:
    """Training clips of one speaker, whom most of those in the language have; or most of all, where none is in it."""
    heard = [index for index, entry in enumerate(entries) if entry.language == language] or [*range(len(entries))]
    speaker = _commonest(entries[index].speaker for index in heard)
    chosen = _spread([index for index in heard if entries[index].speaker == speaker], VOICE)
    reader = FeatureReader(workspace.prepared, "train")
    return [Recording(dequantise(reader[index].audio), SAMPLE_RATE, entries[index].text) for index in chosen]


def _commonest(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _spread(values: Sequence[Value], count: int) -> list[Value]:
    """At most so many, from the first on at equal distances."""
    count = min(count, len(values))
    return [values[place * len(values) // count] for place in range(count)]
