"""How much of each measure counts as worse: the one table of the gate's margins."""

from dataclasses import dataclass
from typing import Literal

from xtts_finetune.measures.measured import Measure


@dataclass(frozen=True)
class Rule:
    """What is worse, and from where on it matters."""

    measure: Measure
    worse: Literal["lower", "higher", "both"]
    margin: float  # a mean change within it passes, however sure it is
    kind: Literal["difference", "ratio"] = "difference"  # candidate - other, or candidate / other - 1


# Most are proposals of a study on 12 clips of LJSpeech (docs/speech-measures.md); none was set by human ears.
RULES = (
    Rule("mos", "lower", 0.05),
    Rule("similarity", "lower", 0.01),
    Rule("error", "higher", 0.02),
    Rule("letters_per_second", "both", 0.03, "ratio"),
    Rule("seconds_per_letter", "both", 0.05, "ratio"),
    Rule("gap", "higher", 0.15),
    Rule("pitch", "both", 0.5),
    Rule("pitch_range", "both", 1.0),
    Rule("repeat", "higher", 0.05),
)
