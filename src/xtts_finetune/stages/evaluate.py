"""Compare base and phases, let them speak, register only the best."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtts_finetune.cards.gathering import INTERVALS, MEASURED
from xtts_finetune.checkpoints.lock import models_held
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.files import published_folder, read_json, sha256_json, write_json
from xtts_finetune.core.layout import (
    FEATURES,
    MODEL_CARD,
    PHASES,
    REFERENCE,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import Params
from xtts_finetune.data.audio import write_wav
from xtts_finetune.data.features import Example, FeatureReader
from xtts_finetune.dvcio.outs import data_digest, remove_finished_work
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import make_deterministic, pick_device
from xtts_finetune.model.xtts import GPT
from xtts_finetune.speech.speaker import SERVING_CODE, Speaker, unspeakable
from xtts_finetune.stages.bundle import Bundle, bundle_of
from xtts_finetune.stages.figures import draw_curves
from xtts_finetune.stages.phase1 import phase1_key
from xtts_finetune.stages.recording import CLIP, recorded_clip, write_recording
from xtts_finetune.tracking.backlog import Files, deliver_backlog, put, set_aside
from xtts_finetune.tracking.connection import TrackingStore, is_local, reason
from xtts_finetune.tracking.logged_model import LANGUAGE_TAG, PARAM, PARAMETERS_TAG
from xtts_finetune.tracking.notes import version_page
from xtts_finetune.tracking.outbox import TRAINED, Order, now
from xtts_finetune.tracking.registry import EVAL_TAG
from xtts_finetune.tracking.stage_runs import connection, evaluation_run, pipeline_of, stage_tags
from xtts_finetune.training import loss
from xtts_finetune.training.per_clip import evaluate_clips, intervals
from xtts_finetune.training.phases import with_weighted

# What a version's tags say of its origin; the rest of a stage's tags stands on its run.
VERSION_TAGS = ("data_md5", "data", "split_digest", "git_commit", "git_dirty")


@dataclass(frozen=True)
class Evaluation:
    """What the stage works on."""

    workspace: Workspace
    params: Params

    @property
    def base(self) -> Base:
        return Base.prepared(self.workspace)

    def weights(self, model: str) -> Path | None:
        """Of `base` (None: its own) or a phase."""
        return None if model == "base" else self.workspace.root / "models" / model / WEIGHTS

    def card(self, phase: PhaseName) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.workspace.model(phase) / MODEL_CARD)
        return content


def evaluate(workspace: Workspace, params: Params) -> None:
    """Write reports/evaluation.json, samples and curves; register the best of the phases' models.

    Not of an experiment in a copy of DVC's: the one of a sweep that is applied is evaluated where it is applied.

    Raises:
        UserError: what the stages before left cannot be used, or MLflow's own database; or models/ is restored to.
    """
    job = Evaluation(workspace, params)
    make_deterministic()
    if not workspace.is_copy:
        _put_away(workspace)
    connect = connection(workspace, params.tracking)
    with models_held(workspace):
        own = _compare(job)
    _register(job, connect, own)
    if workspace.is_copy:  # git names it next, and not before: till here an experiment that fails keeps its phases
        _put_away(workspace)


def _put_away(workspace: Workspace) -> None:
    """Leave nothing in work/ of what DVC has taken over."""
    set_aside(workspace)
    remove_finished_work(workspace)


def _compare(job: Evaluation) -> Path:
    """Write the reports, and keep the best model for the registry; the folder where it waits."""
    workspace, figures, sure = job.workspace, dict[str, Any](), dict[str, Any]()
    with published_folder(workspace.reports / "samples") as samples:
        recorded = recorded_clip(workspace, job.params.evaluate.max_seconds)
        for model in ("base", *PHASES):
            figures[model], sure[model] = _examine(job, model, samples / model, recorded)
        write_recording(samples, job.params.evaluate.sentences, recorded)
    best = min(PHASES, key=lambda phase: figures[phase]["mel_ce"])  # of equals the first
    curves = {phase: workspace.curve(phase) for phase in PHASES}
    target = job.params.phase(PHASES[-1]).target_mel_ce
    draw_curves(workspace.reports / "curves.png", curves, figures["base"], target)
    weights = {phase: job.card(phase)["sha256"] for phase in PHASES}
    report = {**figures, "best": best, INTERVALS: sure, MEASURED: weights}
    write_json(workspace.evaluation, report)
    with bundle_of(workspace, job.params, best) as bundle:
        own = _put(job, figures, best, bundle, report)
    print(f"best: {best}, eval Mel CE {figures[best]['mel_ce']:.3f}")
    if workspace.is_copy:
        print("an experiment of DVC's queue registers nothing; dvc exp apply it, and dvc repro does")
    return own


def _examine(job: Evaluation, model: str, folder: Path, recorded: Example) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure a model, then let it speak into `folder`; one at a time is in memory."""
    gpt = job.base.gpt(job.weights(model)).to(pick_device()).eval()
    found = _measure(job, model, gpt)
    _speak(job, model, gpt, folder, recorded)  # last: it changes the model
    return found


def _measure(job: Evaluation, model: str, gpt: GPT) -> tuple[dict[str, float], dict[str, Any]]:
    """Mel CE and Text CE of a model on the eval split, and how sure they are."""
    batches = loss.eval_batches(FeatureReader(job.workspace.prepared, "eval"), f"evaluating {model}", leave=True)
    clips = evaluate_clips(gpt, xtts.build_conditioning_mel(job.base.mel_stats()), batches)
    sums = sum(clips, loss.TokenSums())
    figures = with_weighted({"mel_ce": sums.mel_ce, "text_ce": sums.text_ce})
    return figures, {"clips": len(clips), **intervals(clips)}


def _speak(job: Evaluation, model: str, gpt: GPT, folder: Path, recorded: Example) -> None:
    """Let a model say the sentences of params.yaml into `folder`, and what the recording says."""
    folder.mkdir()
    settings = job.params.evaluate
    speaker = Speaker(gpt, job.base, job.workspace.prepared / REFERENCE, settings)
    for number, sentence in enumerate(Bar(settings.sentences, desc=f"speaking {model}", unit="sentence")):
        try:
            sound, rate = speaker.speak(sentence, job.params.prepare.language)
        except ValueError as error:
            raise unspeakable({number: error}) from None
        write_wav(folder / f"{number + 1}.wav", sound, rate)
    write_wav(folder / CLIP, *speaker.speak(recorded.entry.text, recorded.entry.language))  # prepare could spell it


def _put(job: Evaluation, figures: dict[str, Any], best: PhaseName, bundle: Bundle, report: dict[str, Any]) -> Path:
    """Keep for MLflow: one run with the figures, samples and curves, and the best model for the registry.

    Args:
        report: what reports/evaluation.json says.

    Returns:
        The folder where all of it waits.
    """
    workspace, params, card = job.workspace, job.params, bundle.card
    settings = {"seed": params.seed, "base": params.base, **params.evaluate.model_dump()}
    kind = card.get("best_weights", "raw")  # older cards do not say
    tags = {**stage_tags(workspace, "evaluate", data_digest(workspace)), "best_weights": kind}
    trained = {f"{PARAM}{name}": str(value) for name, value in card["params"].items()}
    of_version = {name: tags[name] for name in VERSION_TAGS} | trained
    of_version |= {EVAL_TAG: _eval_digest(workspace), "phase": best, "step": str(card["step"]), "base": params.base}
    of_version["best_weights"] = kind
    if TRAINED in card:
        of_version[TRAINED] = card[TRAINED]
    of_version[LANGUAGE_TAG] = params.prepare.language
    of_version[PARAMETERS_TAG] = str(job.base.info["gpt"]["parameters"])
    order = Order(params.registry.model_name, card["sha256"], of_version, _named(figures[best]))
    cards = {phase: job.card(phase) for phase in PHASES}
    key = sha256_json([tags["data_md5"], settings, cards, figures, card["sha256"]])[:16]
    pipeline, lr = pipeline_of(workspace, params, phase1_key(workspace, params), tags), params.train_phase2.lr
    measured = {model: figures[model] for model in ("base", *PHASES)}
    run = evaluation_run(workspace, key, settings, tags, pipeline, measured, best, lr)
    page = version_page(card, measured, tags, params.registry.model_name)
    record = run if workspace.is_copy else replace(run, order=replace(order, page=page))
    point = {"step": card["step"], "time": now(), **_named(figures[best])}  # the registered one of the curve
    shown = [workspace.reports / "samples", workspace.reports / "curves.png"]
    return put(workspace, record, [point], Files(shown, lambda folder: bundle.fill(folder, report, key), SERVING_CODE))


def _eval_digest(workspace: Workspace) -> str:
    """Of all that models are measured on: who has the same was measured on the same."""
    digests: dict[str, str] = read_json(workspace.prepared / FEATURES)
    return sha256_json({name: digest for name, digest in digests.items() if name.startswith("eval.")})


def _register(job: Evaluation, connect: Callable[[], TrackingStore], own: Path) -> None:
    """Deliver what waits for MLflow, this evaluation (`own`) with it. A server that takes nothing leaves it waiting.

    Raises:
        Exception: what keeps the workspace's own database from taking it.
    """
    try:
        for done in deliver_backlog(job.workspace, connect):
            print(done)
    except Exception as error:
        if not own.exists():
            told = as_typed("an earlier run still waits for MLflow (xtts-finetune sync)")
            print(f"{told}: {reason(error)}", file=sys.stderr)
            return
        if is_local(job.params.tracking):
            raise
        told = "the evaluation is done; its model is registered by the next stage that meets MLflow, or by: "
        print(f"MLflow takes nothing: {reason(error)}\n{told}{as_typed('xtts-finetune sync')}", file=sys.stderr)


def _named(figures: dict[str, float]) -> dict[str, float]:
    return {"eval/mel_ce": figures["mel_ce"], "eval/text_ce": figures["text_ce"]}
