"""`xtts-finetune status`: where the run stands, in figures, and what to type next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.disk import free_bytes, shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.ahead import unfinished
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.diskspace.parked import ParkedRun, parked_runs
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.dvcio.coming_back import coming_back
from xtts_finetune.dvcio.outs import lost_states
from xtts_finetune.ops.origin import OURS, is_evaluated, is_to_be_promoted, whose_figures, whose_version
from xtts_finetune.report.progress import progress
from xtts_finetune.report.prospects import Course, prospects
from xtts_finetune.tracking.curve import Row, read_csv, read_rows
from xtts_finetune.tracking.delivery import damaged, waiting
from xtts_finetune.tracking.pace import pace_of


def status_text(workspace: Workspace) -> str:
    """Mel CE and Text CE per model, the registered version, and the next commands.

    Raises:
        UserError: this is no checkout. A mistake in params.yaml is shown among the rest.
    """
    mistakes, params = _mistakes_or_params(workspace)
    parked, back = parked_runs(workspace), coming_back(workspace)
    return "\n".join(
        [
            *_dataset_lines(workspace),
            _disk_line(workspace, params, back),
            *_figure_lines(workspace, params, parked, back),
            "",
            f"registered {whose_version(workspace, params)}",
            *_waiting_lines(workspace),
            *_parked_lines(parked),
            *_stop_lines(workspace),
            *mistakes,
            *_next_lines(workspace, params, bool(mistakes)),
        ]
    )


def _mistakes_or_params(workspace: Workspace) -> tuple[list[str], Params | None]:
    try:
        return [], load_params(workspace.params)
    except UserError as error:
        if not workspace.params.exists():
            raise
        return ["", str(error)], None


def _dataset_lines(workspace: Workspace) -> Iterator[str]:
    report = _read(workspace.dataset_report)
    if report is None:
        yield "data       not prepared yet"
        return
    if "refused" in report:
        clips = report["clips"]
        yield f"data       {clips['accepted']} of {clips['read']} clips usable: {report['refused']}"
        yield "           reports/dataset.json says why the others are not"
        return
    clips, base = report["clips"], report["base"]
    yield (
        f"data       {clips['train']} clips to train on, {clips['eval']} to evaluate, {clips['rejected']} rejected; "
        f"codebook perplexity {base['codebook_perplexity']:.0f}"
    )


def _disk_line(workspace: Workspace, params: Params | None, back: list[PhaseName]) -> str:
    """What is free, and whether the next phase fits."""
    free = f"disk       {shown(free_bytes(workspace.work(PHASES[0])))} free"
    ahead = [phase for phase in unfinished(workspace, params) if phase not in back] if params else []
    demands = Budget(workspace, params, Cache(workspace)).peak(ahead[0]) if ahead and params else []
    if not demands:
        return free
    worst = max(demands, key=lambda demand: demand.missing)
    if worst.missing:
        place = f"{ahead[0]} needs {shown(worst.needed)} on {worst.disk}, {shown(worst.missing)} too much"
        return f"{free}; {place}: `xtts-finetune disk` shows what can go"
    return f"{free}; {ahead[0]} needs {shown(sum(demand.needed for demand in demands))}: fits"


def _figure_lines(
    workspace: Workspace, params: Params | None, parked: list[ParkedRun], back: list[PhaseName]
) -> Iterator[str]:
    """A table of the models on the eval split, and whose figures these are. Text CE also × 0.01, as Coqui prints it."""
    yield ""
    yield "model      eval Mel CE   eval Text CE   (× 0.01)   best at step"
    finished = _finished(workspace)
    running = {phase: _running_rows(workspace, phase, parked) for phase in PHASES if phase not in finished}
    if finished:
        yield _row("base", finished["phase1"]["start"], 0)
    for phase in PHASES:
        figures = finished.get(phase)
        if figures:
            yield _row(phase, figures["eval"], figures["step"]) + (" (EMA)" if _is_ema(figures) else "")
        elif phase in back:
            yield f"{phase:<10} in DVC's cache: dvc repro brings it back, without training"
        else:
            yield f"{phase:<10} {_under_way(workspace, phase, running[phase])}"
    yield from _target_lines(params) if params else ()
    under_way = next(iter(running), None)
    rows = running[under_way] if under_way else []
    told = under_way if rows else next(reversed(finished), None)
    if params and told:
        yield from _forecast_lines(workspace, params, told, rows)
    whose = whose_figures(workspace, params) if finished else None
    if whose:
        yield f"figures    {whose}"
    if table := list(progress(rows)):
        yield from ["", f"{under_way} so far", *table]


def _target_lines(params: Params) -> Iterator[str]:
    targets = {phase: params.phase(phase).target_mel_ce for phase in PHASES}
    differ = len(set(targets.values())) > 1
    for phase, target in targets.items() if differ else [*targets.items()][:1]:
        if target is not None:
            yield f"{'target':<10} {target:>11.3f}{f'   ({phase})' if differ else ''}"


def _running_rows(workspace: Workspace, phase: PhaseName, parked: list[ParkedRun]) -> list[Row]:
    """Of a phase that is under way, not of another run in its place."""
    is_another = any(other.run.folder == workspace.work(phase) for other in parked)
    return [] if is_another else list(read_rows(workspace.running_curve(phase)))


def _forecast_lines(workspace: Workspace, params: Params, phase: PhaseName, running: list[Row]) -> Iterator[str]:
    rows = running or read_csv(workspace.curve(phase))
    course = Course.of(rows, params.phase(phase), pace_of(workspace, phase), is_over=not running)
    for number, line in enumerate(prospects(course)):
        yield f"forecast   {phase}: {line}" if number == 0 else f"{'':11}{line}"


def _row(model: str, figures: dict[str, float], step: int) -> str:
    mel, text = figures["mel_ce"], figures["text_ce"]
    return f"{model:<10} {mel:>11.3f} {text:>14.3f} {text * TEXT_WEIGHT:>11.4f} {step:>14}"


def _is_ema(figures: dict[str, Any]) -> bool:
    return bool(figures.get("best_weights") == "ema")


def _finished(workspace: Workspace) -> dict[PhaseName, dict[str, Any]]:
    """The metrics of the phases that are done; a phase after one that is not has those of the run before."""
    finished: dict[PhaseName, dict[str, Any]] = {}
    for phase in PHASES:
        figures = _read(workspace.metrics(phase))
        if figures is None:
            break
        finished[phase] = figures
    return finished


def _is_complete(workspace: Workspace, params: Params | None) -> bool:
    """Whether every stage has left what it leaves, and of this run."""
    left = [*(workspace.model(phase) for phase in PHASES), workspace.registration]
    is_there = all(each.exists() for each in left) and is_evaluated(workspace)
    return is_there and whose_figures(workspace, params) == OURS


def _under_way(workspace: Workspace, phase: PhaseName, rows: list[Row]) -> str:
    """How far an unfinished phase is, whether it runs now or waits to be resumed."""
    evaluations = [row for row in rows if "eval/mel_ce" in row]
    if not evaluations:
        return "not there yet"
    last, skipped = evaluations[-1], int(max(row.get("disk/saves_skipped", 0) for row in rows))
    left_out = f"; {skipped} states had no room on the disk" if skipped else ""
    figures = f"at step {rows[-1]['step']}; eval Mel CE {last['eval/mel_ce']:.3f} at step {last['step']}{left_out}"
    if phase in trained_now(workspace):
        return f"{figures}; runs now"
    return f"{figures}; {_resumes(CheckpointReader(workspace.work(phase)), rows[0]['step'])}"


def _resumes(store: CheckpointReader, start: int) -> str:
    """Where a phase that nobody trains now, and that began at step `start`, goes on."""
    if store.done:
        return "trained, not published yet: dvc repro"
    states, best = store.states(), store.best()
    if states:
        return f"stopped: dvc repro goes on from step {states[-1].step}"
    if best and best.step > start:
        return f"stopped: only the best weights are left, of step {best.step}: dvc repro says how to start over"
    return "stopped: dvc repro starts over"


def _waiting_lines(workspace: Workspace) -> Iterator[str]:
    """What MLflow does not have yet."""
    runs = waiting(workspace, trained_now(workspace))
    if runs:
        points = sum(each.points for each in runs)
        what = [f"{points} points"] if points else []
        what += ["a model to be registered"] if any(each.registration for each in runs) else []
        yield f"mlflow     lacks {' and '.join(what) or 'the tags or the end of a run'}: xtts-finetune sync"
    yield from (f"mlflow     {each.where} {each.what}\n           remedy: {each.remedy}" for each in damaged(workspace))


def _parked_lines(runs: list[ParkedRun]) -> Iterator[str]:
    """Runs that were moved aside, and come back with their parameters."""
    if runs:
        yield ""
        yield "parked runs go on when their parameters come back, if a state of them is left:"
        yield from (f"  {parked}, {shown(parked.run.bytes)}" for parked in runs)


def _stop_lines(workspace: Workspace) -> Iterator[str]:
    """Why the last stage stopped, where it did: the page that it left."""
    if workspace.stop_page.exists():
        page = workspace.stop_page.read_text(encoding="utf-8")
        yield ""
        yield from (line for line in page.splitlines() if line and not line.startswith(("#", "```")))


def _next_lines(workspace: Workspace, params: Params | None, are_mistakes: bool) -> Iterator[str]:
    yield ""
    if are_mistakes:
        yield f"next: mend {workspace.params.name}"
        return
    if params and params.base != "mini" and not (folder := workspace.base / params.base).is_dir():
        yield f"next: params.yaml: base = {params.base}: there is no folder {folder.resolve()}"
        yield "  it starts in base/, so that a folder beside it is ../FOLDER; XTTS v2 itself: xtts-finetune base fetch"
        return
    live = trained_now(workspace)
    if live:
        yield f"next: {' and '.join(sorted(live))} is being trained: wait for it"
        return
    yield "next:"
    if lost_states(workspace):
        yield "  dvc pull checkpoints/phase1 checkpoints/phase2   brings states back, if a DVC remote has them;"
        yield "  xtts-finetune clean --best-only --yes   lets dvc.lock name models/ alone: no training again"
    if waiting(workspace):
        yield "  xtts-finetune sync  brings to MLflow what it has not got yet"
    if not _is_complete(workspace, params):
        yield "  dvc repro           runs what is missing, and resumes what was stopped"
        return
    if params and is_to_be_promoted(workspace, params):
        yield "  xtts-finetune promote  makes it champion, if it is better than the champion"
    yield "  mlflow ui           compare phase 1 and phase 2, at http://127.0.0.1:5000"
    yield "  dvc plots show      the curves as a page"
    yield "  dvc metrics diff    what changed since the last commit"
    yield "and listen to reports/samples/: base, phase1 and phase2 say the same sentences"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content
