"""What a phase's training has left of itself: states to train on from, and figures and digests of what it came to."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import STOPPING_RULES, TRAINED_WITH, Record, prepared_here
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import EMA, MODEL_CARD, OPTIMIZER, WEIGHTS
from xtts_finetune.tracking.curve import as_text, parse_rows, read_csv, read_rows, stored_rows
from xtts_finetune.training.phases import Job

Digests = dict[str, str]  # SHA-256 by file
Figures = dict[str, float]  # by metric
_MEL_CE = ("eval/mel_ce", "eval_ema/mel_ce")
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
        best: the exported best: its step, which file of that step's state it is, its SHA-256; None: it is not here.
        doubts: why it may not repeat, in words.
    """

    job: Job
    last_step: int
    record: Record
    states: list[Checkpoint] = field(default_factory=list)
    figures: dict[int, Figures] = field(default_factory=lambda: defaultdict(dict))
    rough: set[int] = field(default_factory=set)
    digests: dict[int, Digests] = field(default_factory=lambda: defaultdict(dict))
    best: tuple[int, str, str] | None = None
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
        """Whether the figures of every step after `first` were recorded, to the last bit."""
        return all(self._is_exact(step) for step in range(first + 1, last + 1))

    def known(self, first: int, last: int) -> int:
        """Of how many steps after `first` anything was recorded."""
        return sum(bool(self.figures.get(step)) for step in range(first + 1, last + 1))

    def _is_exact(self, step: int) -> bool:
        names = self.figures.get(step, {})
        return step not in self.rough and any(name.startswith("train/") for name in names)

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
    own, others = _states(job)
    found = _found(job, own)
    if found is None:
        raise UserError(_TITLE, [_nothing(job, others)])
    # what was made again is no record: it is what the record proved
    again = CheckpointReader(job.workspace.rebuilt(job.name, found.record.identity.key)).states()
    by_step = {state.step: state for state in (*again, *own)}
    found.states = [by_step[step] for step in sorted(by_step)]
    if found.record.newer_code or found.record.code != job.identity.code:
        found.doubts.append("the code that trains has changed since")
    if any(_processes(state) > 1 for state in own):
        found.doubts.append("several processes trained it, whose sums are rounded otherwise")
    for state in own:
        found.digests[state.step] |= _digests(state)
    if found.best:
        step, name, digest = found.best
        found.digests[step][name] = digest
    return found


def _found(job: Job, own: list[Checkpoint]) -> Recorded | None:
    """By what says most: DONE, else the exported best, and the states."""
    at = job.workspace
    for folder in (at.work(job.name), at.checkpoints(job.name)):
        summary = summary_of(folder)
        record = _record(summary) if summary else None
        if summary and record and job.identity.has_trajectory_of(record.identity):
            found = Recorded(job, int(summary["figures"]["last_step"]), record)
            found.remember(parse_rows(summary["curve"]))
            found.best = _best(job, summary["figures"])
            return found
    found_by_card = _by_card(job)
    newest = next((state for state in reversed(own) if state.damage() is None), None)
    if newest is None:
        return found_by_card
    found = found_by_card or Recorded(job, newest.step, Record.from_json(newest.state))
    found.remember(stored_rows(newest.folder))
    if newest.folder.parent == at.work(job.name):  # steps that a kill took, too
        later = [row for row in read_rows(at.running_curve(job.name)) if row["step"] > newest.step]
        found.remember(later)
        found.last_step = max([found.last_step, *(row["step"] for row in later)])
    return found


def _states(job: Job) -> tuple[list[Checkpoint], list[str]]:
    """Those that the run has saved, the oldest first, of each step one; and how others that lie here differ."""
    at, found, others = job.workspace, dict[int, Checkpoint](), list[str]()
    for folder in (at.work(job.name), at.checkpoints(job.name)):
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


def _by_card(job: Job) -> Recorded | None:
    """Of a phase whose states were let go: what its exported best and the reports say; None: not of this run."""
    at = job.workspace
    try:
        card = read_json(at.model(job.name) / MODEL_CARD)
        last, step, settings, beside = int(card["last_step"]), card["step"], dict(card["params"]), card[TRAINED_WITH]
        mel_ce = float(card["eval"]["mel_ce"])
    except _DAMAGED:
        return None
    asked = {"seed": job.params.seed, **job.phase.model_dump()}
    rules = STOPPING_RULES if job.phase.schedule == "constant" else STOPPING_RULES[1:]
    here = prepared_here(at)
    if any(settings.get(name) != value for name, value in asked.items() if name not in rules):
        return None
    if any(here.get(name) != digest for name, digest in beside.items()):
        return None
    found = Recorded(job, last, Record(job.identity))
    found.best = _best(job, {})
    rows = read_csv(at.curve(job.name))
    bests = [figure for row in rows if row["step"] == step for name, figure in row.items() if name in _MEL_CE]
    if bests and f"{min(bests):.6g}" == f"{mel_ce:.6g}":  # else the table is another run's: it comes with git
        found.remember(rows, are_rough=True)
    return found


def _best(job: Job, figures: Mapping[str, Any]) -> tuple[int, str, str] | None:
    """What models/ has, as `Recorded.best`.

    Args:
        figures: of DONE, that its card must have: else it is another run's, as after `restore`.
    """
    try:
        card = read_json(job.workspace.model(job.name) / MODEL_CARD)
        is_its = all(card.get(name) == figure for name, figure in figures.items())
        found = int(card["step"]), EMA if card["best_weights"] == "ema" else WEIGHTS, str(card["sha256"])
    except _DAMAGED:
        return None
    return found if is_its else None


def _is_same(then: float, now: float, is_rough: bool) -> bool:
    if math.isnan(then) and math.isnan(now):
        return True
    return f"{then:.6g}" == f"{now:.6g}" if is_rough else then == now


def _measured(row: Mapping[str, Any]) -> Figures:
    """Without what differs from one time to the next, and what says where it is."""
    lasting = next(iter(parse_rows(as_text([dict(row)]))), {})
    return {name: value for name, value in lasting.items() if name not in ("step", "epoch")}


def _digests(state: Checkpoint) -> Digests:
    """The SHA-256 of what a state was written with; nothing where its manifest is damaged."""
    try:
        listed = state.manifest
        return {name: str(listed[name]["sha256"]) for name in _TENSORS if name in listed}
    except _DAMAGED:
        return {}


def _record_of(state: Checkpoint) -> Record | None:
    """Of a state; None where it cannot be read: then it is none to go on from."""
    try:
        content = state.state
    except (OSError, ValueError):
        return None
    return _record(content) if isinstance(content, dict) else None


def _record(content: Mapping[str, Any]) -> Record | None:
    try:
        return Record.from_json(dict(content))
    except _DAMAGED:
        return None


def _processes(state: Checkpoint) -> int:
    try:
        return int(state.state["position"].get("processes", 1))
    except _DAMAGED:
        return 1


def _nothing(job: Job, others: list[str]) -> Problem:
    where = str(job.workspace.checkpoints(job.name))
    if others:
        return Problem(where, "; ".join(others), "set it back in params.yaml, or go to its commit: git checkout")
    card = job.workspace.model(job.name) / MODEL_CARD
    if card.is_file():
        what = f"{job.name} was trained with other parameters, recordings or another base than those here"
        return Problem(str(card), what, "go to the commit that names it: git checkout, dvc checkout")
    return Problem(where, f"{job.name} has not been trained here", "dvc repro")
