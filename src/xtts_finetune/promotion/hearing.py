"""How two versions sound: both say the same held sentences, which are measured and compared in pairs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from xtts_finetune.core.constants import SAMPLE_RATE, Language
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.data.audio import dequantise
from xtts_finetune.data.features import Entry, FeatureReader
from xtts_finetune.measures.measured import Measure, Measurer, Measures, Recording
from xtts_finetune.measures.paired import Comparison, Verdict, compare
from xtts_finetune.promotion.bundles import bundle
from xtts_finetune.promotion.gate import Rule, not_measured
from xtts_finetune.speech.speaker import load_speaker
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions

Value = TypeVar("Value")

VOICE = 20  # training clips that the speaker is known by
_NAMES: dict[Measure, str] = {
    "mos": "predicted MOS",
    "similarity": "voice similarity",
    "error": "wrong sounds",
    "letters_per_second": "letters a second",
    "seconds_per_letter": "seconds a letter",
    "gap": "longest pause, s",
    "pitch": "pitch, semitones",
    "pitch_range": "pitch range, st",
    "repeat": "repetition",
}
_ALARMS = "alarms"


def heard(
    workspace: Workspace, params: Params, registry: Versions, candidate: Version, champion: Version
) -> list[Rule]:
    """What the gate hears: a rule for each measure, and one for sentences that went wrong as a whole.

    Raises:
        UserError: a version's files, prepared/ or the recogniser cannot be used.
    """
    entries, language = _sentences(workspace, params.promotion.sentences)
    folder = params.promotion.recogniser
    measurer = Measurer(_voice(workspace, language), language, None if folder is None else workspace.root / folder)
    measured = []
    for version in (candidate, champion):
        with bundle(workspace, params, registry, version) as files:
            try:
                measured.append(_measured(files, entries, measurer, f"version {version.version} speaks"))
            except ValueError as error:  # its vocabulary cannot spell one
                return [not_measured("speech", f"version {version.version}: {error}")]
    return rules_of(compare(*measured))


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


def _rule(verdict: Verdict) -> Rule:
    rule = verdict.rule
    name = _NAMES[rule.measure]
    if verdict.outcome == "not measured":
        return not_measured(name, verdict.reason)
    margin = f"{rule.margin:.0%}" if rule.kind == "ratio" else f"{rule.margin:g}"
    demand = {"lower": "not lower", "higher": "not higher", "both": "as it is"}[rule.worse]
    assert verdict.low is not None and verdict.high is not None
    return Rule(
        name=name,
        candidate=verdict.candidate,
        champion=verdict.other,
        demand=f"{demand}, within {margin}",
        passed=verdict.outcome == "passes",
        interval=(verdict.low, verdict.high),
    )


def _measured(folder: Path, entries: Sequence[Entry], measurer: Measurer, label: str) -> list[Measures]:
    """Of every sentence, as the model in a bundle says it.

    Raises:
        ValueError: its vocabulary cannot spell one.
    """
    speaker = load_speaker(folder)
    measures = []
    for entry in tqdm(entries, desc=label, unit="sentence", leave=False):
        samples, rate = speaker.speak(entry.text, entry.language)
        measures.append(measurer.measure(samples, rate, entry.text))
    return measures


def _sentences(workspace: Workspace, count: int) -> tuple[list[Entry], Language]:
    """Transcripts of the eval split, spread over it, in the language that most of them have."""
    reader = FeatureReader(workspace.prepared, "eval")
    entries = [reader[index].entry for index in range(len(reader))]
    language = _commonest(entry.language for entry in entries)
    return _spread([entry for entry in entries if entry.language == language], count), language


def _voice(workspace: Workspace, language: str) -> list[Recording]:
    """Training clips of the speaker whom most of them have."""
    reader = FeatureReader(workspace.prepared, "train")
    entries = [reader[index].entry for index in range(len(reader))]
    speaker = _commonest(entry.speaker for entry in entries)
    own = [index for index, entry in enumerate(entries) if entry.speaker == speaker and entry.language == language]
    chosen = _spread(own or list(range(len(entries))), VOICE)
    return [Recording(dequantise(reader[index].audio), SAMPLE_RATE, entries[index].text) for index in chosen]


def _commonest(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _spread(entries: Sequence[Value], count: int) -> list[Value]:
    """At most so many, from the first on at equal distances."""
    count = min(count, len(entries))
    return [entries[place * len(entries) // count] for place in range(count)]
