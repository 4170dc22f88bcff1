"""`xtts-finetune status`: where the run stands, in figures, and what to type next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.files import read_json
from xtts_finetune.core.params import load_params
from xtts_finetune.core.paths import PHASES, Workspace


def status_text(workspace: Workspace) -> str:
    """Mel CE and Text CE per model, the registered version, and the next commands.

    Raises:
        UserError: params.yaml cannot be used.
    """
    params = load_params(workspace.params)
    return "\n".join(
        [
            *_dataset_lines(workspace),
            *_figure_lines(workspace, params.train_phase2.target_mel_ce),
            *_registration_lines(workspace),
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


def _figure_lines(workspace: Workspace, target: float | None) -> Iterator[str]:
    """A table of the models on the eval split. Text CE also × 0.01, as Coqui prints it."""
    evaluation = _read(workspace.evaluation) or {}
    yield ""
    yield "model      eval Mel CE   eval Text CE   (× 0.01)   best at step"
    for model in ("base", *PHASES):
        trained = _read(workspace.reports / f"train_{model}.json") or {}
        figures = evaluation.get(model) or trained.get("eval")
        if figures is None:
            yield f"{model:<10} not there yet"
            continue
        step = trained.get("step", 0)
        mel, text, weighted = (figures[name] for name in ("mel_ce", "text_ce", "text_ce_weighted"))
        yield f"{model:<10} {mel:>11.3f} {text:>14.3f} {weighted:>11.4f} {step:>14}"
    if target is not None:
        yield f"{'target':<10} {target:>11.3f}"


def _registration_lines(workspace: Workspace) -> Iterator[str]:
    registration = _read(workspace.registration)
    yield ""
    if registration is None:
        yield "registered nothing yet"
        return
    aliases = ", ".join(registration["aliases"])
    yield f"registered {registration['name']} version {registration['version']} ({aliases})"


def _next_lines(workspace: Workspace) -> Iterator[str]:
    yield ""
    if _read(workspace.registration) is None:
        yield "next       dvc repro           runs what is missing, or resumes it"
        return
    yield "next       mlflow ui           compare phase 1 and phase 2 at http://127.0.0.1:5000"
    yield "           dvc plots show      the curves as a page"
    yield "           reports/samples/    listen: base, phase1, phase2"
    yield "           xtts-finetune --help"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content
