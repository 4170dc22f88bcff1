"""What a phase's training has left of itself: states to train on from, and figures and digests of what it came to."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import STOPPING_RULES, TRAINED_WITH, Record, prepared_here
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import EMA, MODEL_CARD, OPTIMIZER, WEIGHTS
from xtts_finetune.tracking.curve import COLUMNS, as_text, parse_rows, read_rows, stored_rows
from xtts_finetune.training.phases import Job

Digests = dict[str, str]  # SHA-256 by file
Figures = dict[str, float]  # by metric
_TENSORS = (WEIGHTS, EMA, OPTIMIZER)
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)
_TITLE = "there is nothing to be trained again"


@dataclass
class Recorded:
    """Of one phase.

    Attributes:
        states: to go on from, the oldest first, wherever they lie; whether they hold is asked when one is needed.
        last_step: that the phase came to.
        figures: of each step what was measured then.
        rough: the steps of which only evaluations are known, to the six digits of reports/.
        digests: of each step what was kept of its weights, their EMA and the optimiser's state.
        doubts: why it may not repeat, in words.
    """

    job: Job
    states: list[Checkpoint]
    last_step: int
    record: Record
    figures: dict[int, Figures] = field(default_factory=lambda: defaultdict(dict))
    rough: set[int] = field(default_factory=set)
    digests: dict[int, Digests] = field(default_factory=lambda: defaultdict(dict))
    doubts: list[str] = field(default_factory=list)

    @property
    def start_step(self) -> int:
        return self.job.start_step

    def difference(self, row: Mapping[str, Any]) -> str | None:
        """How a row of the replayed curve differs from what was recorded of its step; None: it does not."""
        then = self.figures.get(row["step"], {})
        for name, now in _measured(row).items():
            if name in then and not _is_same(then[name], now, row["step"] in self.rough):
                return f"step {row['step']}: {name} was {then[name]!r} and is {now!r} now"
        return None

    def lacking(self, seen: Mapping[int, set[str]]) -> str | None:
        """What was recorded of these steps that did not come again."""
        for step, names in seen.items():
            missing = sorted(self.figures.get(step, {}).keys() - names)
            if missing:
                return f"step {step}: {missing[0]} was recorded, and there is none now"
        return None

    def are_exact(self, first: int, last: int) -> bool:
        """Whether all figures of the steps after `first` were recorded, to the last bit."""
        return all(step in self.figures and step not in self.rough for step in range(first + 1, last + 1))

    def remember(self, rows: Iterable[Mapping[str, Any]], are_rough: bool = False) -> None:
        """Rows of the curve of then, the surest last."""
        for row in rows:
            self.figures[row["step"]] |= _measured(row)
            (self.rough.add if are_rough else self.rough.discard)(row["step"])


def recorded(job: Job) -> Recorded:
    """What lies here of the phase's run that params.yaml asks for.

    Raises:
        UserError: nothing does, or what lies here is another run's.
    """
    found, others = _found(job)
    if found is None:
        raise UserError(_TITLE, [_nothing(job, others)])
    if found.record.newer_code or found.record.code != job.identity.code:
        found.doubts.append("the code that trains has changed since")
    if any(_processes(state) > 1 for state in found.states):
        found.doubts.append("several processes trained it, whose sums are rounded otherwise")
    for step, digests in _kept(job):
        found.digests[step] |= digests
    return found


def _found(job: Job) -> tuple[Recorded | None, list[str]]:
    """By what says most: DONE, else the exported best and the states; and what others there are, in words."""
    states, others = _states(job)
    at = job.workspace
    for folder in (at.work(job.name), at.checkpoints(job.name)):
        summary = summary_of(folder)
        record = _record(summary) if summary else None
        if summary and record and job.identity.has_trajectory_of(record.identity):
            found = Recorded(job, states, int(summary["figures"]["last_step"]), record)
            found.remember(parse_rows(summary["curve"]))
            return found, others
    found_by_card = _by_card(job, states)
    if states:
        newest = states[-1]
        found = found_by_card or Recorded(job, states, newest.step, Record.from_json(newest.state))
        found.remember(stored_rows(newest.folder))
        if newest.folder.parent == at.work(job.name):  # steps that a kill took, too
            later = [row for row in read_rows(at.running_curve(job.name)) if row["step"] > newest.step]
            found.remember(later)
            found.last_step = max([found.last_step, *(row["step"] for row in later)])
        return found, others
    return found_by_card, others


def _states(job: Job) -> tuple[list[Checkpoint], list[str]]:
    """Those of this run, the oldest first, of each step one; and how others differ."""
    at, found, others = job.workspace, dict[int, Checkpoint](), list[str]()
    for folder in (at.work(job.name), at.checkpoints(job.name), at.rebuilt(job.name)):
        for state in CheckpointReader(folder).states():
            record = _record_of(state)
            if record is None:
                continue
            if job.identity.has_trajectory_of(record.identity):
                found.setdefault(state.step, state)
            else:
                place = folder.relative_to(at.root).as_posix()
                others.append(f"{place}/ is another run's: {', '.join(job.identity.changes(record.identity))}")
    return [found[step] for step in sorted(found)], list(dict.fromkeys(others))


def _by_card(job: Job, states: list[Checkpoint]) -> Recorded | None:
    """Of a phase whose states were let go: what its exported best and the reports say; None: not of this run."""
    at = job.workspace
    card_file, table = at.model(job.name) / MODEL_CARD, at.curve(job.name)
    if not card_file.is_file():
        return None
    try:
        card = read_json(card_file)
        last, step, settings, beside = card["last_step"], card["step"], dict(card["params"]), card[TRAINED_WITH]
        mel_ce = float(card["eval"]["mel_ce"])
    except _DAMAGED:
        return None
    asked = {"seed": job.params.seed, **job.phase.model_dump()}
    rules = STOPPING_RULES if job.phase.schedule == "constant" else STOPPING_RULES[1:]
    is_same = all(settings.get(name) == value for name, value in asked.items() if name not in rules)
    here = prepared_here(at)
    if not is_same or any(here.get(name) != digest for name, digest in beside.items()):
        return None
    found = Recorded(job, states, last, Record(job.identity))
    rows = list(_table(table.read_text(encoding="utf-8"))) if table.is_file() else []
    bests = [
        min(row[name] for name in ("eval/mel_ce", "eval_ema/mel_ce") if name in row)
        for row in rows
        if row["step"] == step
    ]
    if bests and f"{bests[0]:.6g}" == f"{mel_ce:.6g}":  # else the table is another run's: it comes with git
        found.remember(rows, are_rough=True)
    return found


def _table(text: str) -> Iterator[dict[str, Any]]:
    """Rows of reports/curve_<phase>.csv."""
    for line in csv.DictReader(text.splitlines()):
        row: dict[str, Any] = {"step": int(line["step"]), "epoch": int(line["epoch"])}
        for column, name in COLUMNS.items():
            value = float(line.get(column) or "nan")
            if name not in row and not math.isnan(value):
                row[name] = value
        yield row


def _is_same(then: float, now: float, is_rough: bool) -> bool:
    if math.isnan(then) and math.isnan(now):
        return True
    return f"{then:.6g}" == f"{now:.6g}" if is_rough else then == now


def _measured(row: Mapping[str, Any]) -> Figures:
    """Without what differs from one time to the next, and what says where it is."""
    lasting = next(iter(parse_rows(as_text([dict(row)]))), {})
    return {name: value for name, value in lasting.items() if name not in ("step", "epoch")}


def _kept(job: Job) -> Iterator[tuple[int, Digests]]:
    """The SHA-256 of what is or was kept of steps of this run, by manifests and the exported best's card."""
    at = job.workspace
    for folder in (at.work(job.name), at.checkpoints(job.name)):
        for state in CheckpointReader(folder).states():
            record = _record_of(state)
            if record and job.identity.has_trajectory_of(record.identity):
                yield state.step, {name: state.manifest[name]["sha256"] for name in _TENSORS if name in state.manifest}
    try:
        card = read_json(at.model(job.name) / MODEL_CARD)
        yield int(card["step"]), {EMA if card["best_weights"] == "ema" else WEIGHTS: str(card["sha256"])}
    except _DAMAGED:
        return


def _record_of(state: Checkpoint) -> Record | None:
    """Of a state; None where it cannot be read: then it is none to go on from."""
    try:
        return _record(state.state)
    except (OSError, ValueError):
        return None


def _record(content: Mapping[str, Any]) -> Record | None:
    try:
        return Record.from_json(dict(content))
    except _DAMAGED:
        return None


def _processes(state: Checkpoint) -> int:
    return int(state.state["position"].get("processes", 1))


def _nothing(job: Job, others: list[str]) -> Problem:
    where = str(job.workspace.checkpoints(job.name))
    if others:
        return Problem(where, "; ".join(others), "set it back in params.yaml, or go to its commit: git checkout")
    card = job.workspace.model(job.name) / MODEL_CARD
    if card.is_file():
        what = f"{job.name} was trained with other parameters, recordings or another base than those here"
        return Problem(str(card), what, "go to the commit that names it: git checkout, dvc checkout")
    return Problem(where, f"{job.name} has not been trained here", "dvc repro")
