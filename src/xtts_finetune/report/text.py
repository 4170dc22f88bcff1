"""A report for the terminal."""

from collections.abc import Iterable, Iterator

from xtts_finetune.core.disk import shown
from xtts_finetune.core.layout import PhaseName
from xtts_finetune.dvcio.command import NEXT
from xtts_finetune.report.content import Best, Data, Disk, Phase, Report
from xtts_finetune.report.progress import progress, rates
from xtts_finetune.tracking.pace import in_words

_SMALL = 1_000_000  # bytes, that nobody cleans for
_WIDTHS = 11, 14, 11, 14  # of the table's columns, in characters
_WIDEST = 80  # characters of a change
_PARTS = 3  # of what the project holds, the largest


def text_of(report: Report) -> str:
    """All of it, a line per thing."""
    return "\n".join(
        [
            *_state_lines(report),
            *_data_lines(report),
            *_disk_lines(report.disk, bool(report.queue)),
            *_figure_lines(report),
            "",
            f"registered {report.registered}",
            *_changes_lines(report),
            *_mlflow_lines(report),
            *_parked_lines(report),
            *(["", *report.stopped.splitlines()] if report.stopped else []),
            *(["", report.mistakes] if report.mistakes else []),
            *_next_lines(report),
        ]
    )


def _state_lines(report: Report) -> Iterator[str]:
    yield f"state      {state_in_words(report)}"
    if report.queue:
        yield f"queue      {queue_in_words(report)}"


def queue_in_words(report: Report) -> str:
    """What experiments of DVC's queue do now."""
    names = [f"experiment {each.name}" if each.name else "an experiment whose DVC is gone" for each in report.queue]
    told = [f"{name} {_does(each.stage)}" for name, each in zip(names, report.queue, strict=True)]
    return f"{', '.join(told)} (dvc queue status)"


def _does(stage: str | None) -> str:
    if stage is None:
        return "begins, or ends"
    return f"trains {stage.removeprefix('train_')}" if stage.startswith("train_") else f"is at {stage}"


def state_in_words(report: Report) -> str:
    """What is going on, in one line."""
    phase = under_way(report)
    if report.running and report.state != "training":
        return _running_in_words(report)
    if report.state == "training" and phase and phase.state == "training":
        at_most = "" if phase.target_mel_ce is None else "at most "  # at its target it ends
        left = [f"{at_most}{in_words(phase.seconds_left)} left in {phase.name}"] if phase.seconds_left else []
        if report.seconds_left and report.seconds_left != phase.seconds_left:
            left.append(f"{in_words(report.seconds_left)} in all phases")
        return ", ".join([f"training: {phase.name} {_how_far(phase)}", *left])
    if report.state == "stopped" and phase and phase.resume_step is not None:
        return f"stopped: {phase.name} {_how_far(phase)}; it goes on from step {phase.resume_step:,}"
    done = [each.name for each in report.phases if each.state == "done"]
    return {
        "nothing prepared": "nothing was prepared or trained yet",
        "prepared": "phase1 is done, and phase2 has not begun" if done == ["phase1"] else "prepared",
        "training": "training",
        "stopped": "stopped, as said below" if report.stopped else "stopped",
        "trained": "trained, and yet to be evaluated",
        "evaluated": "trained and evaluated" if report.version is None else "trained, evaluated and registered",
        "outdated": "trained, and not all that params.yaml and dvc.lock ask for (see figures)",
    }[report.state]


def _running_in_words(report: Report) -> str:
    """A stage that does not train: it begins, goes on, has ended and is stored, or is another one."""
    phase = next((each for each in report.phases if report.running == f"train_{each.name}"), None)
    if phase is None:
        return "DVC ends" if report.running == NEXT and report.stopped else f"{report.running} runs now"
    if phase.state in ("done", "trained"):
        return f"{phase.name} is done, and DVC stores what it left"
    if report.stopped:  # gone as soon as a stage begins
        return f"{phase.name} has stopped, and DVC ends"
    return f"{phase.name} goes on from step {phase.resume_step:,}" if phase.resume_step else f"{phase.name} begins"


def under_way(report: Report) -> Phase | None:
    """The first phase that has begun and is not done."""
    return next((each for each in report.phases if each.state in ("training", "stopped", "trained")), None)


def _how_far(phase: Phase) -> str:
    """By steps of the phase, whose first is not always 0."""
    if phase.step is None:
        return "begins"
    if phase.last_step is None or phase.first_step is None:
        return f"at step {phase.step:,}"
    share = (phase.step - phase.first_step) / max(1, phase.last_step - phase.first_step)
    return f"at step {phase.step:,} of {phase.last_step:,} ({100 * share:.0f} % of {phase.name})"


def _data_lines(report: Report) -> Iterator[str]:
    data = report.data
    if data is None:
        yield "data       not prepared yet"
    elif data.refused:
        yield f"data       {data.accepted} of {data.read} clips usable: {data.refused}"
        yield "           reports/dataset.json says why the others are not"
    else:
        yield (
            f"data       {data.train} clips to train on, {data.eval} to evaluate, {len(data.rejected)} rejected; "
            f"codebook perplexity {data.codebook_perplexity:.0f}"
        )


def _disk_lines(disk: Disk, is_queue_at_work: bool) -> Iterator[str]:
    """What is free and held, whether the next phase fits, and what can go."""
    when = ", once the queue is done" if is_queue_at_work else ""
    yield f"disk       {room_in_words(disk)}"
    held = sorted(disk.held.items(), key=lambda part: -part[1])
    if held:
        parts = ", ".join(f"{part} {shown(size)}" for part, size in held[:_PARTS])
        yield f"           this project holds {shown(sum(disk.held.values()))}: {parts}"
    frees = [f"{flags_of(way.command)} {shown(way.frees_bytes)}" for way in disk.ways if way.frees_bytes > _SMALL]
    if frees:
        yield f"           xtts-finetune clean frees{when}: {', '.join(frees)}"


def room_in_words(disk: Disk) -> str:
    """What is free, and whether the next phase fits."""
    free = f"{shown(disk.free_bytes)} free"
    if disk.next_stage is None or disk.needed_bytes is None:
        return free
    if disk.missing_bytes:
        place = f"{disk.next_stage} needs {shown(disk.needed_bytes)} on {disk.full_disk}"
        return f"{free}; {place}, {shown(disk.missing_bytes)} too much: `xtts-finetune disk` shows what can go"
    return f"{free}; {disk.next_stage} needs {shown(disk.needed_bytes)}: fits"


def clips_in_words(data: Data) -> str:
    """What there is to train on, or why there is not enough."""
    if data.refused:
        return f"{data.accepted} of {data.read} clips usable: {data.refused}"
    hours = f"; {60 * data.hours_train:.1f} min of speech to train on" if data.hours_train is not None else ""
    return f"{data.train} clips to train on, {data.eval} to evaluate, {len(data.rejected)} rejected{hours}."


def rejected_of(data: Data) -> tuple[list[str], list[list[str]]]:
    """A table of the clips that were rejected: its columns, and a row each."""
    names = list(dict.fromkeys(name for clip in data.rejected for name in clip))
    return names, [[clip.get(name, "") for name in names] for clip in data.rejected]


def flags_of(command: str) -> str:
    """Of a `clean` command, without what says that it be done."""
    return " ".join(word for word in command.split() if word.startswith("--") and word != "--yes")


def _figure_lines(report: Report) -> Iterator[str]:
    """A table of the models on the eval split, what they promise, and whose figures these are."""
    yield ""
    yield "model      eval Mel CE   eval Text CE   (× 0.01)   best at step"
    if report.base:
        yield _row("base", report.base)
    for phase in report.phases:
        if phase.state == "done" and phase.best:
            yield _row(phase.name, phase.best) + (" (EMA)" if phase.best.weights == "ema" else "")
        else:
            yield f"{phase.name:<10} {phase_in_words(phase)}"
    yield from _target_lines(report)
    yield from _prospect_lines(report)
    yield from rates(report.phases)
    if report.whose:
        yield f"figures    {report.whose}"
    for phase in report.phases:
        if table := list(progress(phase.evaluations)):
            so_far = f", ended: {phase.why}" if phase.state == "done" else " so far"
            yield from ["", f"{phase.name}{so_far}", *table]


def _row(model: str, best: Best) -> str:
    return f"{model:<10} {' '.join(f'{cell:>{width}}' for cell, width in zip(figures_of(best), _WIDTHS, strict=True))}"


def figures_of(best: Best) -> list[str]:
    """Mel CE, Text CE, that × 0.01, and the step."""
    text, weighted = best.text_ce, best.text_ce_weighted
    shown_text = ["" if text is None else f"{text:.3f}", "" if weighted is None else f"{weighted:.4f}"]
    return [f"{best.mel_ce:.3f}", *shown_text, str(best.step)]


def phase_in_words(phase: Phase) -> str:
    """How far an unfinished phase is, whether it runs now or waits to be resumed."""
    if phase.state in ("in DVC's cache", "not started"):
        return f"in DVC's cache: {phase.why}" if phase.why else "not there yet"
    if not phase.evaluations:
        return "begins now"
    state = {"training": "runs now", "trained": f"trained, {phase.why}", "stopped": f"stopped: {phase.why}"}
    return f"at step {phase.step}; {figures_in_words(phase)}; {state[phase.state]}"


def figures_in_words(phase: Phase) -> str:
    """The last evaluation of a phase that has some, the best, and whether states had no room."""
    last, skipped = phase.evaluations[-1], phase.saves_skipped
    left_out = f"; {skipped} state{'s' if skipped > 1 else ''} had no room on the disk" if skipped else ""
    best = f", best {phase.best.mel_ce:.3f} at step {phase.best.step}" if phase.best else ""
    return f"eval Mel CE {_figure(last.eval_mel_ce)} at step {last.step}{best}{left_out}"


def _figure(figure: float | None) -> str:
    return "not finite" if figure is None else f"{figure:.3f}"


def _target_lines(report: Report) -> Iterator[str]:
    targets = report.target_mel_ce
    differ = len(set(targets.values())) > 1
    for name, target in targets.items() if differ else [*targets.items()][:1]:
        if target is not None:
            missing = missing_in_words(report, target, name if differ else None)
            beside = [*([f"({name})"] if differ else []), *([missing] if missing else [])]
            yield "   ".join([f"{'target':<10} {target:>11.3f}", *beside])


def missing_in_words(report: Report, target: float, name: PhaseName | None) -> str:
    """From the best of a phase, or of any, to the target."""
    bests = [phase.best.mel_ce for phase in report.phases if phase.best and name in (None, phase.name)]
    if not bests:
        return ""
    whose, away = "its best" if name else "the best", min(bests) - target
    return f"{whose} is {away:.3f} above it" if away > 0 else f"reached: {whose} is {-away:.3f} below it"


def told_of(report: Report) -> Phase | None:
    """The phase whose prospects count: the one under way, else the last that ended."""
    done = [phase for phase in report.phases if phase.state == "done"]
    running = under_way(report)
    return running if running and running.evaluations else (done[-1] if done else None)


def _prospect_lines(report: Report) -> Iterator[str]:
    phase = told_of(report)
    lines = phase.prospect.lines if phase and phase.prospect else []
    for number, line in enumerate(lines):
        yield f"forecast   {phase.name}: {line}" if phase and number == 0 else f"{'':11}{line}"


def _changes_lines(report: Report) -> Iterator[str]:
    if report.changed_since_commit:
        yield f"params     since the last commit: {_listed(report.changed_since_commit)}"
    if report.changed_since_champion:
        yield f"           since the champion's: {_listed(report.changed_since_champion)}"


def _listed(changes: Iterable[str], most: int = 5) -> str:
    listed = [each if len(each) <= _WIDEST else f"{each[: _WIDEST - 1]}…" for each in changes]
    more = [f"and {len(listed) - most} more"] if len(listed) > most else []
    return ", ".join([*listed[:most], *more])


def _mlflow_lines(report: Report) -> Iterator[str]:
    """What MLflow does not have yet."""
    waiting = report.mlflow
    if waiting.runs:
        what = [f"{waiting.points} points"] if waiting.points else []
        what += ["a model to be registered"] if waiting.models else []
        yield f"mlflow     lacks {' and '.join(what) or 'the tags or the end of a run'}: xtts-finetune sync"
    for problem in waiting.damaged:
        first, *others = problem.splitlines()
        yield from [f"mlflow     {first}", *(f"           {line}" for line in others)]


def _parked_lines(report: Report) -> Iterator[str]:
    """Runs that were moved aside, and come back with their parameters."""
    if report.parked:
        yield ""
        yield "parked runs go on when their parameters come back, if a state of them is left:"
        yield from (f"  {parked.words}, {shown(parked.bytes)}" for parked in report.parked)


def _next_lines(report: Report) -> Iterator[str]:
    yield ""
    if report.next:
        yield "next:"
        yield from (f"  {each.command:<18}  {each.why}" for each in report.next)
        yield from (f"and {remark}" for remark in report.remarks)
        return
    first, *others = report.remarks or ["nothing"]
    yield f"next: {first}"
    yield from (f"  {remark}" for remark in others)
