"""How fast a phase trained on this machine: what tells how long the same would take again."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import median
from typing import Any

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.tracking.curve import read_rows
from xtts_finetune.tracking.journal import journal

_SLEPT = 5  # times as long as stretches mostly take


def seconds_per_step(rows: Iterable[Mapping[str, Any]], resumed: Sequence[float] = ()) -> float | None:
    """By the time between evaluations, these and saves included, wherever they lie.

    A stretch that took far longer than most is left out, as a machine may have slept. By the time of its steps where
    there are no two evaluations; None where there are no two steps.

    Args:
        rows: of a curve.
        resumed: when it went on, in seconds since 1970, rising: the time between the rows on both sides does not count.
    """
    timed = [row for row in rows if "time" in row]
    for mark in ("eval/mel_ce", "train/mel_ce"):
        if stretches := list(_stretches(timed, mark, resumed)):
            most = _SLEPT * median(milliseconds for _, milliseconds in stretches)
            awake = [stretch for stretch in stretches if stretch[1] <= most]
            steps, milliseconds = map(sum, zip(*awake, strict=True))
            return milliseconds / 1000 / steps
    return None


def _stretches(timed: Sequence[Mapping[str, Any]], mark: str, resumed: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Steps and milliseconds between every two rows that have `mark`."""
    first = next((number for number, row in enumerate(timed) if mark in row), len(timed))
    steps = milliseconds = 0
    for before, row in pairwise(timed[first:]):
        if bisect_left(resumed, before["time"] / 1000) == bisect_left(resumed, row["time"] / 1000):
            steps += row["step"] - before["step"]
            milliseconds += row["time"] - before["time"]
        if mark in row:
            if steps > 0 and milliseconds > 0:
                yield steps, milliseconds
            steps = milliseconds = 0


def remember_pace(workspace: Workspace, phase: PhaseName, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write down how fast the phase trained, if that can be told."""
    pace = seconds_per_step(rows, _resumed(workspace, phase))
    if pace is not None:
        write_json(workspace.pace, {**_known(workspace), phase: pace})


def pace_of(workspace: Workspace, phase: PhaseName) -> float | None:
    """Seconds per step of the phase, of the run that is under way or else the last that ended here; None: not known."""
    running = seconds_per_step(read_rows(workspace.running_curve(phase)), _resumed(workspace, phase))
    return running if running is not None else _known(workspace).get(phase)


def _resumed(workspace: Workspace, phase: PhaseName) -> list[float]:
    return [each.time for each in journal(workspace) if (each.kind, each.stage) == ("resumed", phase)]


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
