"""A phase as data: what it starts from, what identifies it, and what it leaves behind."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import TRAINED_WITH, Identity, Record, identity_of, trained_with
from xtts_finetune.checkpoints.stopping import Ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, published_folder, read_json, write_json
from xtts_finetune.core.layout import FEATURES, MODEL_CARD, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.data.batches import torch_seed
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import pick_device
from xtts_finetune.model.trained import freeze
from xtts_finetune.tracking.curve import as_text, parse_rows, write_csv
from xtts_finetune.training.inputs import Inputs
from xtts_finetune.training.run import SKIPPED, Run


@dataclass(frozen=True)
class Job:
    """A phase to be trained in a workspace."""

    workspace: Workspace
    params: Params
    name: PhaseName

    @property
    def phase(self) -> PhaseParams:
        return self.params.phase(self.name)

    @property
    def base(self) -> Base:
        return Base.prepared(self.workspace)

    @property
    def warm_start(self) -> Path | None:
        """The folder of the model this phase starts from; None: the base."""
        return self.workspace.model("phase1") if self.name == "phase2" else None

    @property
    def start_step(self) -> int:
        """Steps count on across phases, so that their curves join up."""
        return int(read_json(self.warm_start / MODEL_CARD)["last_step"]) if self.warm_start else 0

    @cached_property
    def identity(self) -> Identity:
        """Of the run that the parameters ask for.

        Raises:
            UserError: prepare, or the phase before, has not run.
        """
        identity = identity_of(self.workspace, self.params, self.name)
        if identity is None:
            missing = self.workspace.prepared / FEATURES
            place = self.warm_start / MODEL_CARD if self.warm_start and missing.exists() else missing
            raise UserError(f"{self.name} cannot start", [Problem(str(place), "does not exist", "dvc repro")])
        return identity

    def inputs(self) -> Inputs:
        """Open the data and the initial weights. Seconds for `mini`, a minute for XTTS v2.

        Raises:
            UserError: the weights are not those that the stage before recorded.
        """
        weights, trained, seed = self._initial_weights(), self.phase.trained, self.params.seed
        gpt = self.base.gpt_to_train(weights, trained, *_adapters_of(self.phase, seed))
        return _inputs(self.workspace, gpt, self.name, self.phase, seed, self.start_step)

    def _initial_weights(self) -> Path | None:
        """Of the warm start; None: the base's own, which it checks itself."""
        if self.warm_start is None:
            return None
        weights, recorded = self.warm_start / WEIGHTS, read_json(self.warm_start / MODEL_CARD)["sha256"]
        if not weights.is_file() or sha256_once(weights, self.workspace.digests) != recorded:
            changed = Problem(str(weights), "is not what phase1 exported", "bring it back: dvc checkout --force")
            raise UserError(f"{self.name} cannot start", [changed])
        return weights


def inputs_to_follow(workspace: Workspace, work: dict[str, Any]) -> Inputs:
    """What a process that does not lead trains on. Its weights are yet to come from the leader.

    Args:
        work: as `Share.begin` tells it.
    """
    base, phase, seed = Base.prepared(workspace), PhaseParams(**work["phase"]), work["seed"]
    gpt = xtts.build_gpt(base.args, base.tokenizer())
    freeze(gpt, phase.trained, *_adapters_of(phase, seed))
    return _inputs(workspace, gpt, work["name"], phase, seed, work["start_step"])


def _adapters_of(phase: PhaseParams, seed: int) -> tuple[float, int]:
    """Their dropout, and the seed of their first weights."""
    return phase.lora.dropout if phase.lora else 0.0, torch_seed("adapters", seed)


def _inputs(
    workspace: Workspace, gpt: xtts.GPT, name: PhaseName, phase: PhaseParams, seed: int, start_step: int
) -> Inputs:
    base = Base.prepared(workspace)
    return Inputs(
        name=name,
        phase=phase,
        seed=seed,
        gpt=gpt.to(pick_device()).train(),
        mel_stats=base.mel_stats(),
        train=FeatureReader(workspace.prepared, "train"),
        eval=FeatureReader(workspace.prepared, "eval"),
        start_step=start_step,
        header=base.header(phase.trained),
    )


def summary(run: Run, record: Record, end: Ending) -> dict[str, Any]:
    """What is remembered of a phase that ended, as if it had never gone on after its `end`; equal runs give equal ones.

    DONE holds it.
    """
    position, rows = run.position, run.curve.rows_until(end.step)
    first = next(row for row in rows if "eval/mel_ce" in row)
    figures = {
        "step": position.best_step,
        "last_step": end.step,
        "epochs": end.epochs,
        "stopped": end.reason,
        "skipped_steps": int(max((row[SKIPPED] for row in rows if SKIPPED in row), default=0)),
        "start": {"mel_ce": first["eval/mel_ce"], "text_ce": first["eval/text_ce"]},
        "eval": with_weighted({"mel_ce": position.best_mel_ce, "text_ce": position.best_text_ce}),
        "best_weights": position.best_weights,
    }
    return {**record.to_json(), "figures": figures, "curve": as_text(rows)}


def with_weighted(figures: dict[str, float]) -> dict[str, float]:
    """Text CE also × 0.01, as Coqui prints it."""
    return {**figures, "text_ce_weighted": TEXT_WEIGHT * figures["text_ce"]}


def publish_outs(job: Job, store: CheckpointStore) -> None:
    """Give a done phase its outs and reports. States and weights get second names: no byte is copied.

    Raises:
        UserError: the best weights are missing or damaged.
        DiskFull: copies were needed, and they or the reports have no room.
    """
    figures = store.summary["figures"]
    best = store.best(figures["step"])
    damage = "is not there" if best is None else best.damage()
    if best is None or damage:
        remedy = f"rm -r {quoted(store.folder)} && dvc repro: trains {job.name} again"
        where = f"{store.folder}: the best weights, of step {figures['step']}"
        raise UserError("the phase cannot be published", [Problem(where, damage or "", remedy)])
    workspace, name = job.workspace, job.name
    store.keep_best(best.step)
    store.with_room(lambda: store.link_to(workspace.checkpoints(name)))
    run = Record.from_json(store.summary).identity
    store.with_room(lambda: _export(job, best, figures, trained_with(workspace, run)))
    store.with_room(lambda: write_csv(parse_rows(store.summary["curve"]), workspace.curve(name)))
    store.with_room(lambda: write_json(workspace.metrics(name), figures))


def _export(job: Job, best: Checkpoint, figures: dict[str, Any], beside: dict[str, str]) -> None:
    with published_folder(job.workspace.model(job.name)) as folder:
        link_or_copy(best.weights, folder / WEIGHTS)
        card = {
            "phase": job.name,
            "base": job.params.base,
            "sha256": best.manifest[WEIGHTS]["sha256"],
            TRAINED_WITH: beside,
            **figures,
            "params": {"seed": job.params.seed, **job.phase.model_dump()},
        }
        write_json(folder / MODEL_CARD, card)
