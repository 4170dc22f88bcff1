"""How fast a phase trained on this machine: what tells how long the same would take again."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from statistics import median
from typing import Any

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.tracking.curve import read_rows


def seconds_per_step(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """By the time between evaluations, these and saves included: the median, as a run may have stood still between two.

    By that of its steps where there are no two evaluations; None where there are no two steps.
    """
    timed = [row for row in rows if "time" in row]
    for marks in ([row for row in timed if "eval/mel_ce" in row], [row for row in timed if "train/mel_ce" in row]):
        spans = [(b["step"] - a["step"], b["time"] - a["time"]) for a, b in pairwise(marks)]
        paces = [milliseconds / 1000 / steps for steps, milliseconds in spans if steps > 0 and milliseconds > 0]
        if paces:
            return float(median(paces))
    return None


def remember_pace(workspace: Workspace, phase: PhaseName, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write down how fast the phase trained, if that can be told."""
    pace = seconds_per_step(rows)
    if pace is not None:
        write_json(workspace.pace, {**_known(workspace), phase: pace})


def pace_of(workspace: Workspace, phase: PhaseName) -> float | None:
    """Seconds per step of the phase, of the run that is under way or else the last that ended here; None: not known."""
    running = seconds_per_step(read_rows(workspace.running_curve(phase)))
    return running if running is not None else _known(workspace).get(phase)


def in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _known(workspace: Workspace) -> dict[str, float]:
    """By phase; what is damaged counts as nothing: the next run writes it again."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return {phase: float(pace) for phase, pace in read_json(workspace.pace).items()}
    return {}
