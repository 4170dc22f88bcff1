"""Train one phase, from wherever it was left."""

from xtts_finetune.core.files import sha256_json
from xtts_finetune.core.params import Params
from xtts_finetune.core.paths import PhaseName, Workspace
from xtts_finetune.store.checkpoints import CheckpointStore
from xtts_finetune.store.connection import open_store
from xtts_finetune.store.outs import remove_finished_work
from xtts_finetune.store.stage_runs import stage_tags, start_stage_run
from xtts_finetune.store.tracking import RunTracker
from xtts_finetune.training.curve import Curve
from xtts_finetune.training.device import make_deterministic
from xtts_finetune.training.interrupts import stop_on_signals
from xtts_finetune.training.loop import fit
from xtts_finetune.training.phases import Job, claim, publish, summary
from xtts_finetune.training.run import Run, logged


def train(workspace: Workspace, params: Params, name: PhaseName) -> None:
    """Train a phase in work/, then link its outs. Killed anywhere and called again, it ends in the same bytes.

    Raises:
        UserError: base or data are unusable, or another trainer is at work.
        Stopped: a signal asked for it; everything is saved.
    """
    make_deterministic()
    remove_finished_work(workspace)
    job = Job(workspace, params, name)
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    with store.locked():
        claim(store, job.fingerprint())
        curve = Curve(workspace.running_curve(name))
        if not store.done:
            _train(job, store, curve)
        publish(job, store, curve)


def _train(job: Job, store: CheckpointStore, curve: Curve) -> None:
    with stop_on_signals() as stop, _tracker(job) as tracker:
        run = Run(job.inputs(), store, curve, tracker, job.params.checkpoints.save_every_steps)
        tracker.backfill((row["step"], logged(row)) for row in curve.rows)
        reason = fit(run, stop)
        tracker.set_tags({"stopped": reason, "best_step": str(run.position.best_step)})
        store.mark_done(summary(run, reason))


def _tracker(job: Job) -> RunTracker:
    workspace, params = job.workspace, job.params
    settings = {"seed": params.seed, "base": params.base, **job.phase.model_dump()}
    key = sha256_json([job.fingerprint(), settings])
    store, tags = open_store(workspace, params.tracking), stage_tags(workspace, job.name)
    return start_stage_run(store, workspace, key, settings, tags, params.tracking.flush_every_steps)
