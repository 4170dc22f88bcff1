"""A phase as data: what it starts from, what identifies it, and what it leaves behind."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, published_folder, read_json, sha256_file, sha256_json, write_json
from xtts_finetune.core.layout import MODEL_CARD, SPLITS, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params, PhaseParams
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import pick_device
from xtts_finetune.tracking.curve import parse_rows, write_csv
from xtts_finetune.training.run import Inputs, Run


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
        return Base(self.workspace.prepared / "base", self.workspace.root)

    @property
    def warm_start(self) -> Path | None:
        """The folder of the model this phase starts from; None: the base."""
        return self.workspace.model("phase1") if self.name == "phase2" else None

    @property
    def start_step(self) -> int:
        """Steps count on across phases, so that their curves join up."""
        return int(read_json(self.warm_start / MODEL_CARD)["last_step"]) if self.warm_start else 0

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """All that shapes the result. A run resumes only where it is the same, or extends the run (`claim`)."""
        prepared = self.workspace.prepared
        features = [path for split in SPLITS for path in sorted(prepared.glob(f"{split}.*"))]
        weights = sha256_file(self.warm_start / WEIGHTS) if self.warm_start else self.base.info["gpt"]["sha256"]
        return {
            "phase": self.name,
            "seed": self.params.seed,
            "data": sha256_json([sha256_file(path) for path in features]),
            "initial_weights": weights,
            **{f"train_{self.name}.{key}": value for key, value in self.phase.model_dump().items()},
        }

    def inputs(self) -> Inputs:
        """Open the data and the initial weights. Seconds for `mini`, a minute for XTTS v2."""
        weights = self.warm_start / WEIGHTS if self.warm_start else None
        return Inputs(
            name=self.name,
            phase=self.phase,
            seed=self.params.seed,
            gpt=self.base.gpt(weights).to(pick_device()).train(),
            mel_stats=self.base.mel_stats(),
            train=FeatureReader(self.workspace.prepared, "train"),
            eval=FeatureReader(self.workspace.prepared, "eval"),
            start_step=self.start_step,
            fingerprint=self.fingerprint,
        )


def code_digest() -> str:
    """Of the sources that shape a result: what dvc.yaml names as a training stage's dependencies."""
    package = Path(__file__).parent.parent
    rooms = [source for room in ("data", "model", "training") for source in (package / room).glob("*.py")]
    sources = [package / "stages" / "train.py", package / "core" / "constants.py", *rooms]
    return sha256_json([sha256_file(path) for path in sorted(sources)])


def claim(job: Job, store: CheckpointStore) -> Checkpoint | None:
    """The newest state that verifies, if it is of this run; states of another are dropped, and their store is empty.

    More epochs alone extend a run, a done one too, unless its schedule is stretched over them. An unfinished run
    resumes under newer code; a done one under older code is not passed off as the newer one's.
    """
    state = store.latest(lambda found, damage: tqdm.write(f"passing over {found.folder}: {damage}"))
    known = store.summary if store.done else state.state if state else None
    if known is None:
        return None
    fingerprint, before = job.fingerprint, known["fingerprint"]
    changed = [key for key in fingerprint | before if before.get(key) != fingerprint.get(key)]
    epochs, schedule = (f"train_{job.name}.{key}" for key in ("epochs", "schedule"))
    extended = changed == [epochs] and fingerprint[schedule] == "constant" and fingerprint[epochs] > before[epochs]
    if extended:
        changed = []
    if store.done and known["code"] != code_digest():
        changed.append("the code")
    if changed:
        tqdm.write(f"starting afresh, not resuming: {', '.join(changed)} changed")
        store.clear()
        return None
    if extended:
        store.reopen()
    return state


def summary(job: Job, run: Run, reason: str) -> dict[str, Any]:
    """What is remembered of an ended phase; equal runs give equal figures."""
    position, first = run.position, run.curve.evaluations()[0]
    figures = {
        "step": position.best_step,
        "last_step": position.step,
        "epochs": position.epoch,
        "stopped": reason,
        "start": {"mel_ce": first["eval/mel_ce"], "text_ce": first["eval/text_ce"]},
        "eval": with_weighted({"mel_ce": position.best_mel_ce, "text_ce": position.best_text_ce}),
    }
    return {"code": code_digest(), "figures": figures, "fingerprint": job.fingerprint, "curve": run.curve.lasting()}


def with_weighted(figures: dict[str, float]) -> dict[str, float]:
    """Text CE also × 0.01, as Coqui prints it."""
    return {**figures, "text_ce_weighted": TEXT_WEIGHT * figures["text_ce"]}


def publish(job: Job, store: CheckpointStore) -> None:
    """Give a done phase its outs and reports. States and weights get second names: no byte is copied.

    Raises:
        UserError: the best weights are missing or damaged.
        DiskFull: copies were needed, and they or the reports have no room.
    """
    best, figures = store.best(), store.summary["figures"]
    damage = "is not there" if best is None or best.step != figures["step"] else best.damage()
    if best is None or damage:
        remedy = f"rm -r {store.folder} && dvc repro: trains {job.name} again"
        where = f"{store.folder}: the best weights, of step {figures['step']}"
        raise UserError("the phase cannot be published", [Problem(where, damage or "", remedy)])
    workspace, name = job.workspace, job.name
    store.with_room(lambda: store.link_to(workspace.checkpoints(name)))
    store.with_room(lambda: _export(job, best, figures))
    store.with_room(lambda: write_csv(parse_rows(store.summary["curve"]), workspace.curve(name)))
    store.with_room(lambda: write_json(workspace.metrics(name), figures))


def _export(job: Job, best: Checkpoint, figures: dict[str, Any]) -> None:
    with published_folder(job.workspace.model(job.name)) as folder:
        link_or_copy(best.weights, folder / WEIGHTS)
        card = {
            "phase": job.name,
            "base": job.params.base,
            "sha256": best.manifest[WEIGHTS]["sha256"],
            **figures,
            "params": {"seed": job.params.seed, **job.phase.model_dump()},
        }
        write_json(folder / MODEL_CARD, card)
