"""A phase in figures: its evaluations, what they promise, and how long the rest takes."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.checkpoints.stopping import ending
from xtts_finetune.checkpoints.stopping import evaluations as figures_of
from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.report.content import Best, Evaluation, Phase, PhaseState
from xtts_finetune.report.prospects import Course, ends_of_epochs, prospect
from xtts_finetune.tracking.curve import Row, last_step, read_csv, read_rows
from xtts_finetune.tracking.journal import Happening, planned, resumed_at
from xtts_finetune.tracking.pace import pace_of


def phase_of(
    workspace: Workspace,
    name: PhaseName,
    rules: PhaseParams | None,
    *,
    metrics: Mapping[str, Any] | None,
    is_live: bool,
    is_displaced: bool,
    comes_back: bool,
) -> Phase:
    """What there is to say of a phase.

    Args:
        rules: None: params.yaml cannot be read.
        metrics: that it left when it was done; None: it is not.
        is_displaced: another run, which is to be parked, lies in its place.
        comes_back: DVC's cache has it.
    """
    is_done = metrics is not None
    running = [] if is_done or is_displaced else list(read_rows(workspace.running_curve(name)))
    rows = read_csv(workspace.curve(name)) if is_done else running
    seen = [row for row in rows if "eval/mel_ce" in row]
    pace = pace_of(workspace, name)
    best = best_of(metrics) if metrics else _best_among(seen)
    store = CheckpointReader(workspace.work(name))
    states = [] if is_done or is_displaced else store.states()
    state, why = _state(seen, store, rules, metrics=metrics, is_live=is_live, comes_back=comes_back)
    step = metrics["last_step"] if metrics else _step(workspace, name, rows, is_live)
    plan = planned(workspace, name, is_over=is_done)
    if rules and plan and is_live:
        rules = as_begun(rules, plan)
    goes_on = states[-1].step if state == "stopped" and states else step
    course = Course.of(rows, rules, pace, goes_on, plan, is_over=is_done) if rules else None
    target = rules.target_mel_ce if rules else None
    return Phase(
        name=name,
        state=state,
        why=why,
        first_step=seen[0]["step"] if seen else None,
        step=step,
        last_step=metrics["last_step"] if metrics else (course.last_step if course else None),
        resume_step=states[-1].step if states else None,
        target_mel_ce=target,
        missing_mel_ce=max(0.0, best.mel_ce - target) if best and target is not None else None,
        best=best,
        evaluations=list(evaluations(seen, course.steps_per_epoch if course else None)),
        prospect=prospect(course) if course and seen else None,
        seconds_per_step=pace,
        seconds_per_epoch=pace * course.steps_per_epoch if pace and course and course.steps_per_epoch else None,
        seconds_left=_seconds_left(course, goes_on, pace) if not is_done and not comes_back else None,
        steps_skipped=_most(rows, "train/skipped_steps") if not metrics else metrics["skipped_steps"],
        saves_skipped=_most(rows, "disk/saves_skipped"),
    )


def as_begun(rules: PhaseParams, plan: Happening) -> PhaseParams:
    """With what ends the phase that is trained, as its trainer said when it began, whatever params.yaml says by now."""
    if plan.epochs is None:
        return rules
    return rules.model_copy(update={"epochs": plan.epochs, "target_mel_ce": plan.target_mel_ce})


def _step(workspace: Workspace, name: PhaseName, rows: Sequence[Row], is_live: bool) -> int | None:
    """How far it is: one that goes on from a state has yet to train again what was trained behind that."""
    resumed = resumed_at(workspace, name) if is_live else None
    if resumed and resumed.step is not None and all(row.get("time", 0) / 1000 < resumed.time for row in rows[-1:]):
        return resumed.step
    return last_step(rows)


def evaluations(seen: Sequence[Row], steps_per_epoch: float | None = None) -> Iterator[Evaluation]:
    """What each evaluation brought: by the steps that really lie between it and the one before."""
    trains = [each.train for each in figures_of(seen)]
    ends = ends_of_epochs(seen)
    for (before, row), train in zip(pairwise([None, *seen]), trains, strict=True):
        assert row is not None
        mel, steps = row["eval/mel_ce"], row["step"] - before["step"] if before else 0
        change = mel - before["eval/mel_ce"] if before else math.nan
        text = row.get("eval/text_ce", math.nan)
        yield Evaluation(
            step=row["step"],
            epoch=row["epoch"] + _part(row["step"] - ends[row["epoch"]], steps_per_epoch),
            eval_mel_ce=_finite(mel),
            eval_text_ce=_finite(text),
            eval_text_ce_weighted=_finite(text * TEXT_WEIGHT),
            eval_ema_mel_ce=_finite(row.get("eval_ema/mel_ce", math.nan)),
            train_mel_ce=_finite(train),
            from_start=_finite(mel - seen[0]["eval/mel_ce"]) if before else None,
            from_before=_finite(change),
            per_100_steps=_finite(100 * change / steps) if steps else None,
        )


def _part(steps: int, steps_per_epoch: float | None) -> float:
    """Of an epoch that has not ended."""
    return min(steps / steps_per_epoch, 0.99) if steps_per_epoch else 0.0


def best_of(metrics: Mapping[str, Any]) -> Best:
    """As a phase's metrics say it."""
    figures = metrics["eval"]
    return Best(
        step=metrics["step"],
        mel_ce=figures["mel_ce"],
        text_ce=_finite(figures["text_ce"]),
        text_ce_weighted=_finite(figures["text_ce"] * TEXT_WEIGHT),
        weights=metrics.get("best_weights", "raw"),
    )


def start_of(phase: Phase) -> Best | None:
    """What it began with: its first evaluation; None where it has none, or that is not finite."""
    first = phase.evaluations[0] if phase.evaluations else None
    if first is None or first.eval_mel_ce is None:
        return None
    figures = {"mel_ce": first.eval_mel_ce, "text_ce": math.nan if first.eval_text_ce is None else first.eval_text_ce}
    return best_of({"step": first.step, "eval": figures})


def _best_among(seen: Iterable[Row]) -> Best | None:
    figures = [
        (row[f"{name}/mel_ce"], row["step"], row.get(f"{name}/text_ce", math.nan), weights)
        for row in seen
        for name, weights in (("eval", "raw"), ("eval_ema", "ema"))
        if math.isfinite(row.get(f"{name}/mel_ce", math.nan))
    ]
    if not figures:
        return None
    mel, step, text, weights = min(figures, key=lambda figure: figure[0])
    return best_of({"step": step, "eval": {"mel_ce": mel, "text_ce": text}, "best_weights": weights})


def _state(
    seen: Sequence[Row],
    store: CheckpointReader,
    rules: PhaseParams | None,
    *,
    metrics: Mapping[str, Any] | None,
    is_live: bool,
    comes_back: bool,
) -> tuple[PhaseState, str | None]:
    """And why: in words."""
    if metrics is not None:
        return "done", metrics["stopped"]
    if comes_back:
        return "in DVC's cache", "dvc repro brings it back, without training"
    if not seen:
        return ("training", None) if is_live else ("not started", None)
    if is_live:
        return "training", None
    if store.done:
        return "trained", "not published yet: dvc repro"
    return "stopped", _resumes(store, seen, rules)


def _resumes(store: CheckpointReader, seen: Sequence[Row], rules: PhaseParams | None) -> str:
    """Where a phase that nobody trains now goes on, or that it does not."""
    start, states, best = seen[0]["step"], store.states(), store.best()
    end = ending(seen, rules) if rules else None
    if states and end and end.step <= states[-1].step:
        return f"dvc repro ends it as it is, without a step ({end.reason})"
    if states:
        return f"dvc repro goes on from step {states[-1].step}"
    if best and best.step > start:
        return f"only the best weights are left, of step {best.step}: dvc repro says how to start over"
    return "dvc repro starts over"


def _seconds_left(course: Course | None, step: int | None, pace: float | None) -> float | None:
    if pace is None or course is None or course.last_step is None or step is None:
        return None
    return max(0, course.last_step - step) * pace


def _most(rows: Iterable[Row], name: str) -> int:
    return int(max((row.get(name, 0) for row in rows), default=0))


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None
