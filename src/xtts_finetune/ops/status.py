"""`xtts-finetune status`: where the run stands, in figures, and what to type next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.disk import free_bytes, shown
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.budget import Budget, unfinished
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.tracking.curve import read_rows


def status_text(workspace: Workspace) -> str:
    """Mel CE and Text CE per model, the registered version, and the next commands.

    Raises:
        UserError: params.yaml cannot be used.
    """
    params = load_params(workspace.params)
    return "\n".join(
        [
            *_dataset_lines(workspace),
            _disk_line(workspace, params),
            *_figure_lines(workspace, params.train_phase2.target_mel_ce),
            *_registration_lines(workspace),
            *_stop_lines(workspace),
            *_next_lines(workspace),
        ]
    )


def _dataset_lines(workspace: Workspace) -> Iterator[str]:
    report = _read(workspace.reports / "dataset.json")
    if report is None:
        yield "data       not prepared yet"
        return
    clips, base = report["clips"], report["base"]
    yield (
        f"data       {clips['train']} clips to train on, {clips['eval']} to evaluate, {clips['rejected']} rejected; "
        f"codebook perplexity {base['codebook_perplexity']:.0f}"
    )


def _disk_line(workspace: Workspace, params: Params) -> str:
    """What is free, and whether the next phase fits."""
    free = f"disk       {shown(free_bytes(workspace.work(PHASES[0])))} free"
    ahead = unfinished(workspace, params)
    demands = Budget(workspace, params, Cache(workspace)).peak(ahead[0]) if ahead else []
    if not demands:
        return free
    worst = max(demands, key=lambda demand: demand.missing)
    if worst.missing:
        place = f"{ahead[0]} needs {shown(worst.needed)} on {worst.disk}, {shown(worst.missing)} too much"
        return f"{free}; {place}: `xtts-finetune disk` shows what can go"
    return f"{free}; {ahead[0]} needs {shown(sum(demand.needed for demand in demands))}: fits"


def _figure_lines(workspace: Workspace, target: float | None) -> Iterator[str]:
    """A table of the models on the eval split. Text CE also × 0.01, as Coqui prints it."""
    yield ""
    yield "model      eval Mel CE   eval Text CE   (× 0.01)   best at step"
    finished = _finished(workspace)
    if finished:
        yield _row("base", finished["phase1"]["start"], 0)
    for phase in PHASES:
        figures = finished.get(phase)
        yield (
            _row(phase, figures["eval"], figures["step"]) if figures else f"{phase:<10} {_under_way(workspace, phase)}"
        )
    if target is not None:
        yield f"{'target':<10} {target:>11.3f}"


def _row(model: str, figures: dict[str, float], step: int) -> str:
    mel, text = figures["mel_ce"], figures["text_ce"]
    return f"{model:<10} {mel:>11.3f} {text:>14.3f} {text * TEXT_WEIGHT:>11.4f} {step:>14}"


def _finished(workspace: Workspace) -> dict[PhaseName, dict[str, Any]]:
    """The metrics of the phases that are done; a phase after one that is not has those of the run before."""
    finished: dict[PhaseName, dict[str, Any]] = {}
    for phase in PHASES:
        figures = _read(workspace.metrics(phase))
        if figures is None:
            break
        finished[phase] = figures
    return finished


def _is_complete(workspace: Workspace) -> bool:
    """Whether every stage has left what it leaves."""
    reports = [workspace.evaluation, workspace.registration]
    return len(_finished(workspace)) == len(PHASES) and all(report.exists() for report in reports)


def _under_way(workspace: Workspace, phase: PhaseName) -> str:
    """How far an unfinished phase is, whether it runs now or waits to be resumed."""
    rows = list(read_rows(workspace.running_curve(phase)))
    evaluations = [row for row in rows if "eval/mel_ce" in row]
    if not evaluations:
        return "not there yet"
    last, skipped = evaluations[-1], int(max(row.get("disk/saves_skipped", 0) for row in rows))
    left_out = f"; {skipped} states had no room on the disk" if skipped else ""
    return f"at step {rows[-1]['step']}; eval Mel CE {last['eval/mel_ce']:.3f} at step {last['step']}{left_out}"


def _registration_lines(workspace: Workspace) -> Iterator[str]:
    registration = _read(workspace.registration)
    yield ""
    if registration is None:
        yield "registered nothing yet"
        return
    aliases = ", ".join(registration["aliases"])
    when = "" if _is_complete(workspace) else ", by the run before"
    yield f"registered {registration['name']} version {registration['version']} ({aliases}){when}"


def _stop_lines(workspace: Workspace) -> Iterator[str]:
    """Why the last stage stopped, where it did: the page that it left."""
    if workspace.status.exists():
        page = workspace.status.read_text(encoding="utf-8")
        yield ""
        yield from (line for line in page.splitlines() if line and not line.startswith(("#", "```")))


def _next_lines(workspace: Workspace) -> Iterator[str]:
    yield ""
    yield "next, in .venv (. .venv/bin/activate):"
    if not _is_complete(workspace):
        yield "  dvc repro           runs what is missing, and resumes what was stopped"
        return
    yield "  mlflow ui           compare phase 1 and phase 2, at http://127.0.0.1:5000"
    yield "  dvc plots show      the curves as a page"
    yield "  dvc metrics diff    what changed since the last commit"
    yield "and listen to reports/samples/: base, phase1 and phase2 say the same sentences"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content
