"""What DVC's experiments came to, side by side: a table, and a picture of their curves."""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.commands import printable, quoted
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.core.yamlfile import said_in
from xtts_finetune.dvcio.history import experiments, experiments_without_result, files_at, objects_of
from xtts_finetune.dvcio.queue import running_experiments
from xtts_finetune.report import charts
from xtts_finetune.report.origin import flat, is_of_an_earlier_run
from xtts_finetune.tracking.curve import Row, parse_csv

HEAD = "HEAD"
HERE = "workspace"  # as dvc exp show calls it
_UNSAID = ("tracking", "notify")  # of params: they may hold a password
_WIDEST = 24  # characters of a setting
_DRAWN = 20  # of the best, as many as there are colours
_BETWEEN = "  "  # columns
_ROOM = 10_000  # characters
_PANELS = 3  # settings by which they are drawn, and called


@dataclass(frozen=True)
class Experiment:
    """A run of the pipeline that git names.

    Attributes:
        mel_ce: the best eval Mel CE of each phase, in nats per token.
        step: of the better of both.
        settings: of params.yaml, by their path.
        clips: the object of the dataset's report: figures of two that differ are of other clips.
        curves: the evaluations of each phase.
    """

    name: str
    mel_ce: dict[PhaseName, float]
    step: int
    settings: dict[str, Any]
    clips: str
    curves: dict[PhaseName, list[Row]]

    @property
    def best(self) -> float:
        return min(self.mel_ce.values())


def experiment_lines(workspace: Workspace) -> Iterator[str]:
    """HEAD and all experiments, the best first, what differs between them, and what to type next; draws the picture.

    Raises:
        UserError: git cannot be asked.
    """
    if not workspace.params.exists():
        load_params(workspace.params)  # which says where to go
    refs = [HEAD, *experiments(workspace)]
    found = {ref: _read(workspace, ref, _name(ref, refs)) for ref in Bar(refs, "reading", leave=False)}
    runs = sorted((run for run in (*found.values(), _here(workspace, found[HEAD])) if run), key=lambda run: run.best)
    without = [_name(ref, found) for ref, run in found.items() if run is None and ref != HEAD]
    others = list(_without_result(workspace, {run.name.rpartition("/")[2] for run in runs}))
    if not runs:
        yield from others
        yield "no commit and no experiment has figures yet: dvc repro makes HEAD's, which you commit"
        return
    names = _differing(runs)
    yield from _table(runs, names)
    if without:
        yield f"whose reports cannot be read: {', '.join(without)}"
    write_text(workspace.experiments_picture, charts.picture(_chart(_comparable(runs)[:_DRAWN])))
    yield f"picture: {workspace.experiments_picture.relative_to(workspace.root).as_posix()}"
    yield from [*others, "", "next:", *_next(runs)]


def _without_result(workspace: Workspace, done: Container[str]) -> Iterator[str]:
    """Those that DVC's queue has, and git no result of."""
    names = experiments_without_result(workspace)
    if failed := list(dict.fromkeys(name for name in names["failed"] if name not in done)):
        why = f"dvc queue logs {quoted(failed[0])} says why, dvc queue remove --failed forgets them"
        yield f"failed, or stopped (queued again they go on): {', '.join(failed)}; {why}"
    if running := running_experiments(workspace):
        yield f"running: {', '.join(running)}; xtts-finetune status shows what it is at"
    if queued := names["queued"]:
        how = "they follow (dvc queue status)" if running else "dvc queue start runs them"
        yield f"queued: {', '.join(queued)}; {how}"


def _files(at: Workspace) -> list[Path]:
    return [at.params, at.dvc_lock, *(file(phase) for phase in PHASES for file in (at.metrics, at.curve))]


def _here(at: Workspace, head: Experiment | None) -> Experiment | None:
    """What lies in the workspace, where it is another run than HEAD's."""
    try:
        texts = {file: file.read_text(encoding="utf-8") for file in _files(at) if file.is_file()}
    except (OSError, UnicodeDecodeError):
        return None
    if is_of_an_earlier_run(at, "phase2"):  # phase 1 was trained again since: both are of no one run
        return None
    run = _told(at, texts, HERE)
    return run if run and (head is None or run.curves != head.curves or run.mel_ce != head.mel_ce) else None


def _read(workspace: Workspace, ref: str, name: str) -> Experiment | None:
    """None where it has no figures, or they cannot be read."""
    return _told(workspace, files_at(workspace, ref, _files(workspace)), name)


def _told(at: Workspace, texts: Mapping[Path, str], name: str) -> Experiment | None:
    try:
        figures = {phase: json.loads(texts[at.metrics(phase)]) for phase in PHASES}
        mel_ce = {phase: float(figures[phase]["eval"]["mel_ce"]) for phase in PHASES}
        step = int(figures[min(PHASES, key=mel_ce.__getitem__)]["step"])
        settings = said_in(texts[at.params])
        said = flat({name: value for name, value in settings.items() if name not in _UNSAID})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    clips = objects_of(texts.get(at.dvc_lock, "")).get("reports/dataset.json", "")
    curves = {phase: parse_csv(texts.get(at.curve(phase), "")) for phase in PHASES}
    return Experiment(name, mel_ce, step, said, clips, curves)


def _name(ref: str, refs: Iterable[str]) -> str:
    """As DVC calls it; where two are called alike, as git does."""
    name = ref.rpartition("/")[2]
    return name if [each.rpartition("/")[2] for each in refs].count(name) == 1 else ref


def _differing(runs: list[Experiment]) -> list[str]:
    """The settings that are not the same in all."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]


def _short(name: str) -> str:
    """A setting as columns and legends have it: phase2.lr."""
    return printable(name.removeprefix("train_"))


def _shown(run: Experiment, name: str) -> str:
    value = run.settings.get(name, "-")
    text = "null" if value is None else printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _comparable(runs: list[Experiment]) -> list[Experiment]:
    """Those that were measured on the clips that most were measured on."""
    usual = Counter(run.clips for run in runs).most_common(1)[0][0]
    return [run for run in runs if run.clips == usual]


def _table(runs: list[Experiment], names: list[str]) -> Iterator[str]:
    alike = _comparable(runs)
    columns = [
        ["experiment", *(run.name if run in alike else f"{run.name} *" for run in runs)],
        *([_short(name), *(_shown(run, name) for run in runs)] for name in names),
        *([phase, *(f"{run.mel_ce[phase]:.3f}" for run in runs)] for phase in PHASES),
        ["change", *(f"{run.mel_ce['phase2'] - run.mel_ce['phase1']:+.3f}" for run in runs)],
        ["best at step", *(f"{run.step:,}" for run in runs)],
    ]
    shown, left_out = _fitting(columns, range(1, 1 + len(names)))
    widths = [max(map(len, column)) for column in shown]
    yield "eval Mel CE, nats per token, the best first; change: by phase 2"
    for row in zip(*shown, strict=True):
        first, *others = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield _BETWEEN.join([first, *others]).rstrip()
    for name, *values in left_out:
        yield f"{name}: {', '.join(dict.fromkeys(values))} (no room for its column)"
    if len(alike) < len(runs):
        yield "* measured on other clips: its figures are not to be compared"


def _columns() -> int:
    """Of the terminal; of what is none, or does not know its size: as many as one likes."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _ROOM
    except (OSError, ValueError):
        return _ROOM


def _fitting(columns: list[list[str]], may_go: range) -> tuple[list[list[str]], list[list[str]]]:
    """Those that a terminal has room for, and those of `may_go`, the widest first, that it has not.

    In a pipe or a file there is room.
    """
    room = _columns() + len(_BETWEEN)
    widths = [max(map(len, column)) + len(_BETWEEN) for column in columns]
    gone = set[int]()
    for at in sorted(may_go, key=widths.__getitem__, reverse=True):
        if sum(widths) - sum(widths[each] for each in gone) > room:
            gone.add(at)
    kept = [column for at, column in enumerate(columns) if at not in gone]
    return kept, [columns[at] for at in sorted(gone)]


def _chart(runs: list[Experiment]) -> dict[str, Any]:
    names = _differing(runs)
    labels = {run.name: _label(run, names[:_PANELS]) for run in runs}
    curves = [
        {"label": labels[run.name], "phase": phase, "step": row["step"], "Mel CE": row["eval/mel_ce"]}
        for run in runs
        for phase, rows in run.curves.items()
        for row in rows
        if "eval/mel_ce" in row
    ]
    numbers = [name for name in names if all(_is_number(run.settings.get(name)) for run in runs)]
    panels = {
        _short(name): [
            {"label": labels[run.name], "setting": float(run.settings[name]), "Mel CE": run.best} for run in runs
        ]
        for name in numbers[:_PANELS]
    }
    return charts.experiments(list(labels.values()), curves, panels)


def _label(run: Experiment, names: list[str]) -> str:
    told = ", ".join(f"{_short(name)} {_shown(run, name)}" for name in names)
    return f"{run.name}: {told}" if told else run.name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _next(runs: list[Experiment]) -> Iterator[str]:
    best = _comparable(runs)[0]
    if best.name == HEAD and len(runs) > 1:
        yield "  (HEAD is the best: there is nothing to take)"
    if best.name == HERE:
        yield _line("git add --update", "what lies here is the best: git commit it before you take another")
    elif best.name != HEAD:
        yield _line(f"dvc exp apply {quoted(best.name)}", "takes the best here")
        yield _line("dvc repro", "evaluates it here, and registers it")
    if len(runs) > 1:
        yield _line("dvc exp remove --all-commits", "when what you keep is committed: lets all experiments go")
        yield _line("xtts-finetune clean --history", "shows what nothing names any more, and what that frees")
    else:
        yield _line("dvc exp run --queue -S train_phase2.lr=1e-4,3e-4", "queues two; then: dvc queue start")


def _line(command: str, why: str) -> str:
    return f"  {command:<50}  {why}"
