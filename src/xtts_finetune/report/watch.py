"""`xtts-finetune status --watch`: the report as it changes, in a terminal; in a pipe a line for every change.

It reads what the trainer writes, and takes no lock.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report.content import Disk, Phase, Report
from xtts_finetune.report.gathering import gather
from xtts_finetune.report.progress import COLUMNS, cells, is_in_sight
from xtts_finetune.report.text import (
    figures_in_words,
    queue_in_words,
    room_in_words,
    state_in_words,
    told_of,
    under_way,
)
from xtts_finetune.tracking.pace import in_words

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS = 2.0  # between two looks, at the least
_PATIENCE = 5  # looks in a row that may fail
_SHARE = 10  # it looks for a tenth of the time at the most: the trainer may need the processor
_DISK_SECONDS = 60.0  # what can go is asked so often; what is free, every time
_HEIGHT, _WIDTH = 12, 72  # of the curve, in characters, where there is room
_MARGIN = 10  # at its side, for figures
_SHOWN = 5  # evaluations
_GAP = 2  # characters between columns
_NAMES = [name.strip() for name in COLUMNS]
_MATTERS = (  # the first the most
    *("step", "eval Mel CE", "per 100 steps", "from before", "train Mel CE", "eval Text CE", "epoch"),
    *("from the start", "(× 0.01)"),
)


def watch(workspace: Workspace) -> None:
    """Until Ctrl-C.

    Raises:
        UserError: this is no checkout, or something in it is damaged.
    """
    try:
        if sys.stdout.isatty():
            _watch_live(workspace)
        else:
            for line in _lines(workspace):
                print(as_typed(line), flush=True)
    except KeyboardInterrupt:
        return


def _watch_live(workspace: Workspace) -> None:
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for report in _reports(workspace):
            live.update(view(report, live.console.width), refresh=True)


def _lines(workspace: Workspace) -> Iterator[str]:
    """One for each change."""
    before = ""
    for report in _reports(workspace):
        phase = under_way(report)
        figures = f"; {figures_in_words(phase)}" if phase and phase.evaluations else ""
        if phase and phase.resume_step is None and phase.why:
            figures += f"; {phase.why}"
        queue = f"; {queue_in_words(report)}" if report.queue else ""
        mistakes = "; params.yaml cannot be used" if report.mistakes else ""
        line = f"{report.at} {state_in_words(report)}{figures}{queue}{mistakes}"
        if line.partition(" ")[2] != before:
            before = line.partition(" ")[2]
            yield line


def _reports(workspace: Workspace) -> Iterator[Report]:
    """One after the other."""
    disk: Disk | None = None
    asked, failures = -math.inf, 0
    while True:
        begun = time.monotonic()
        if begun - asked > _DISK_SECONDS:
            disk, asked = None, begun
        try:
            report = gather(workspace, disk=disk)
        except (UserError, OSError, ValueError, TypeError, KeyError):  # DVC writes a file just now, or deletes one
            failures += 1
            if failures > _PATIENCE:
                raise
        else:
            disk, failures = report.disk, 0
            yield report
        time.sleep(max(SECONDS, _SHARE * (time.monotonic() - begun)))


def view(report: Report, width: int) -> "RenderableType":
    """All that fits a terminal of so many characters: state, bars, curve, evaluations, disk and what to type."""
    from rich.console import Group
    from rich.text import Text

    phase = told_of(report)
    parts: list[RenderableType] = [Text(state_in_words(report), style="bold"), Text(f"as of {report.at}", style="dim")]
    parts += [Text(queue_in_words(report))] if report.queue else []
    parts += [_bar(each, width) for each in report.phases]
    if phase:
        parts += ["", Text(f"eval Mel CE of {phase.name}"), *map(Text, curve(phase, phase.target_mel_ce, width))]
        parts += [Text(f"  {line}") for line in (phase.prospect.lines if phase.prospect else ())]
        parts += ["", _evaluations(phase, width)]
    parts += ["", Text(f"disk  {as_typed(room_in_words(report.disk))}")]
    if report.stopped:
        parts += ["", Text(report.stopped, style="bold red")]
    parts += [Text(f"next  {as_typed(each.command)}  {each.why}") for each in report.next]
    parts += [Text(as_typed(remark), style="dim") for remark in report.remarks]
    return Group(*parts)


def _bar(phase: Phase, width: int) -> "RenderableType":
    from rich.columns import Columns
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    first, step, last = phase.first_step, phase.step or 0, phase.last_step
    is_known = first is not None and last is not None and last > first
    left = f", {in_words(phase.seconds_left)} left" if phase.seconds_left else ""
    total, done = (last - first, step - first) if is_known and first is not None and last is not None else (1, 0)
    words = f"{done:,} of {total:,} steps{left}" if is_known else phase.state
    bar = ProgressBar(total=total, completed=done, width=max(10, min(40, width - 45)))
    return Columns([Text(f"{phase.name:<7}"), bar, Text(words)])


def curve(phase: Phase, target: float | None, width: int) -> list[str]:
    """Evaluations as a picture of characters: `o`, the best `*`, the target `-`; figures at its side."""
    points = [(each.step, each.eval_mel_ce) for each in phase.evaluations if each.eval_mel_ce is not None]
    if len(points) < 2:
        return ["(its curve begins with the second evaluation)"]
    figures = [figure for _, figure in points]
    is_near = target is not None and is_in_sight(target, figures)
    reach = [*figures, target] if target is not None and is_near else figures
    low, high = min(reach), max(reach)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    wide = max(20, min(_WIDTH, width - _MARGIN))
    rows = [[" "] * wide for _ in range(_HEIGHT)]

    def row(figure: float) -> int:
        return round((high - figure) / ((high - low) or 1.0) * (_HEIGHT - 1))

    if target is not None and is_near:
        rows[row(target)] = ["-"] * wide
    for step, figure in points:
        column = round((step - first) / (last - first) * (wide - 1))
        rows[row(figure)][column] = "*" if figure == min(figures) else "o"
    labels = {0: f"{high:.3f}", _HEIGHT - 1: f"{low:.3f}"}
    beyond = (
        []
        if target is None or is_near
        else [f"{'':8}  the target {target:.3f} is far {'below' if target < low else 'above'}"]
    )
    return [
        *(f"{labels.get(number, ''):>8} |{''.join(cells_)}" for number, cells_ in enumerate(rows)),
        f"{'':8}  {f'step {first:,}':<{wide // 2}}{f'{last:,}':>{wide - wide // 2}}",
        *beyond,
    ]


def _evaluations(phase: Phase, width: int) -> "RenderableType":
    """A table with the columns that there is room for."""
    from rich.table import Table

    rows = [cells(each) for each in phase.evaluations[-_SHOWN:]]
    columns = {name: [name, *(row[at] for row in rows)] for at, name in enumerate(_NAMES)}
    shown = _fitting({name: max(map(len, column)) + _GAP for name, column in columns.items()}, width)
    table = Table(box=None, padding=(0, _GAP, 0, 0))
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*(columns[name][1:] for name in shown), strict=True):
        table.add_row(*row)
    return table


def _fitting(widths: Mapping[str, int], width: int) -> list[str]:
    """Of the columns, in their order, as many as there is room for, those that matter."""
    chosen: list[str] = []
    for name in _MATTERS:
        if sum(widths[each] for each in (*chosen, name)) > width:
            break
        chosen.append(name)
    return [name for name in _NAMES if name in chosen]
