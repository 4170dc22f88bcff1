"""Compare base and phases, let them speak, register only the best."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xtts_finetune.core.files import link_or_copy, published_folder, read_json, scratch_folder, sha256_json, write_json
from xtts_finetune.core.layout import (
    BASE_INFO,
    BUNDLE_BASE,
    CODEC,
    CONFIG,
    MEL_STATS,
    MODEL_CARD,
    PHASES,
    REFERENCE,
    SETTINGS,
    VOCABULARY,
    VOCODER,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import Params
from xtts_finetune.data.audio import write_wav
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.dvcio.outs import data_digest, remove_finished_work
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import make_deterministic, pick_device
from xtts_finetune.model.xtts import GPT
from xtts_finetune.speech.speaker import SERVING_CODE, Speaker, unspeakable
from xtts_finetune.stages.figures import draw_curves
from xtts_finetune.tracking.connection import Store, open_store
from xtts_finetune.tracking.registry import Registration, register_best
from xtts_finetune.tracking.stage_runs import stage_tags, start_stage_run
from xtts_finetune.training import loss
from xtts_finetune.training.phases import with_weighted


@dataclass(frozen=True)
class Evaluation:
    """What the stage works on."""

    workspace: Workspace
    params: Params

    @property
    def base(self) -> Base:
        return Base(self.workspace.prepared / "base", self.workspace.root)

    def weights(self, model: str) -> Path | None:
        """Of `base` (None: its own) or a phase."""
        return None if model == "base" else self.workspace.root / "models" / model / WEIGHTS

    def card(self, phase: PhaseName) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.workspace.model(phase) / MODEL_CARD)
        return content


def evaluate(workspace: Workspace, params: Params) -> None:
    """Write reports/evaluation.json, samples and curves; register the best of the phases' models.

    Raises:
        UserError: what the stages before left cannot be used, or there is no tracking store.
    """
    job = Evaluation(workspace, params)
    make_deterministic()
    remove_finished_work(workspace)
    store = open_store(workspace, job.params.tracking)
    figures: dict[str, Any] = {}
    with published_folder(workspace.reports / "samples") as samples:
        for model in ("base", *PHASES):
            figures[model] = _examine(job, model, samples / model)
    best = min(PHASES, key=lambda phase: figures[phase]["mel_ce"])  # of equals the first
    curves = {phase: workspace.curve(phase) for phase in PHASES}
    target = job.params.phase(PHASES[-1]).target_mel_ce
    draw_curves(workspace.reports / "curves.png", curves, figures["base"], target)
    write_json(workspace.evaluation, {**figures, "best": best})
    registration = _record(job, store, figures, best)
    write_json(workspace.registration, registration.__dict__)
    verb = "registered" if registration.created else "already registered"
    version = f"{registration.name} version {registration.version}"
    print(f"best: {best}, eval Mel CE {figures[best]['mel_ce']:.3f}; {verb}: {version}")


def _examine(job: Evaluation, model: str, folder: Path) -> dict[str, float]:
    """Measure a model, then let it speak into `folder`; one at a time is in memory."""
    gpt = job.base.gpt(job.weights(model)).to(pick_device()).eval()
    figures = _measure(job, model, gpt)
    _speak(job, model, gpt, folder)  # last: it changes the model
    return figures


def _measure(job: Evaluation, model: str, gpt: GPT) -> dict[str, float]:
    """Mel CE and Text CE of a model on the eval split."""
    batches = loss.eval_batches(FeatureReader(job.workspace.prepared, "eval"), f"evaluating {model}", leave=True)
    sums = loss.evaluate(gpt, xtts.build_conditioning_mel(job.base.mel_stats()), batches)
    return with_weighted({"mel_ce": sums.mel_ce, "text_ce": sums.text_ce})


def _speak(job: Evaluation, model: str, gpt: GPT, folder: Path) -> None:
    """Let a model say the sentences of params.yaml into `folder`."""
    folder.mkdir()
    settings = job.params.evaluate
    speaker = Speaker(gpt, job.base, job.workspace.prepared / REFERENCE, settings)
    for number, sentence in enumerate(tqdm(settings.sentences, desc=f"speaking {model}", unit="sentence")):
        try:
            sound, rate = speaker.speak(sentence, job.params.prepare.language)
        except ValueError as error:
            raise unspeakable({number: error}) from None
        write_wav(folder / f"{number + 1}.wav", sound, rate)


def _record(job: Evaluation, store: Store, figures: dict[str, Any], best: PhaseName) -> Registration:
    """One MLflow run with the figures, samples and curves, and the best model's version in the registry."""
    workspace, params, card = job.workspace, job.params, job.card(best)
    cards = {phase: job.card(phase) for phase in PHASES}
    settings = {"seed": params.seed, "base": params.base, **params.evaluate.model_dump()}
    tags = stage_tags(workspace, "evaluate", data_digest(workspace))
    key = sha256_json([tags["data_md5"], settings, cards])
    with start_stage_run(store, workspace, key, settings, tags, flush_every_steps=1) as tracker:
        tracker.backfill([(card["step"], _named(figures[best]))])  # the registered point of the curve
        tracker.log_artifact_dir(workspace.reports / "samples", "samples")
        tracker.log_artifact(workspace.reports / "curves.png")
        trained = {f"param.{name}": str(value) for name, value in card["params"].items()}
        version_tags = {**tags, **trained, "phase": best, "step": str(card["step"]), "base": params.base}
        with _self_contained(job, best) as folder:
            return register_best(
                store,
                tracker.run_id,
                params.registry.model_name,
                folder,
                SERVING_CODE,
                card["sha256"],
                version_tags,
                _named(figures[best]),
            )


def _named(figures: dict[str, float]) -> dict[str, float]:
    return {"eval/mel_ce": figures["mel_ce"], "eval/text_ce": figures["text_ce"]}


@contextmanager
def _self_contained(job: Evaluation, best: PhaseName) -> Iterator[Path]:
    """A folder with all that the best model needs to speak, as links: no byte is copied."""
    prepared = job.workspace.prepared
    with scratch_folder(job.workspace.root / "register") as folder:
        (folder / BUNDLE_BASE).mkdir()
        for file in (WEIGHTS, MODEL_CARD):
            link_or_copy(job.workspace.model(best) / file, folder / file)
        sound = VOCODER if job.base.info["vocoder"] == "hifigan" else CODEC
        for file in (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS, sound):
            link_or_copy(prepared / "base" / file, folder / BUNDLE_BASE / file)
        shutil.copyfile(prepared / REFERENCE, folder / REFERENCE)
        write_json(folder / SETTINGS, job.params.evaluate.model_dump())
        yield folder
