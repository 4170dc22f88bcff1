"""Train one phase, from wherever it was left."""

from xtts_finetune.checkpoints.stopping import Ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.dvcio.outs import data_digest, is_kept, relink_finished_work, remove_finished_work
from xtts_finetune.model.device import make_deterministic
from xtts_finetune.report.pages import write_pages
from xtts_finetune.speech.speaker import refuse_unspeakable
from xtts_finetune.stages.memory import opened_within_memory, within_memory
from xtts_finetune.stages.notify import Notified
from xtts_finetune.stages.phase1 import phase1_key
from xtts_finetune.stages.samples import Sampled
from xtts_finetune.tracking.backlog import deliver_backlog_aside, set_aside, take_back
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.journal import Happening, Kind, remember_saves, write_down
from xtts_finetune.tracking.pace import remember_pace
from xtts_finetune.tracking.run_tracker import RunTracker
from xtts_finetune.tracking.stage_runs import CODE, connection, from_step, phase_run, pipeline_of, stage_tags, track
from xtts_finetune.tracking.system_metrics import monitored
from xtts_finetune.training.claim import Claim, claim
from xtts_finetune.training.interrupts import NOBODY, Newcomer, StopRequest, stop_on_signals
from xtts_finetune.training.loop import fit
from xtts_finetune.training.phases import Job, publish_outs, summary
from xtts_finetune.training.run import Run
from xtts_finetune.training.share import Share
from xtts_finetune.training.team import Team


def train(
    workspace: Workspace,
    params: Params,
    name: PhaseName,
    team: Team,
    newcomer: Newcomer = NOBODY,
) -> None:
    """Train a phase in work/, then link its outs. Killed anywhere and called again, it ends in the same bytes.

    Args:
        team: that this process leads.
        newcomer: asked at every step.

    Raises:
        UserError: base or data are unusable, or another trainer is at work.
        Stopped: a signal asked for it, or (MadeWay) another machine; everything is saved.
        DiskFull: not even the weights of the best, or the reports, have room; what was saved before is whole.
        OutOfMemory: a step or an evaluation has no room; what was saved before is whole.
        PeerLost: another process of the team is gone.
    """
    make_deterministic()
    if not workspace.is_copy:  # there git names what was finished when evaluate is done
        set_aside(workspace)
        remove_finished_work(workspace)
    job = Job(workspace, params, name)
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    with store.locked(), stop_on_signals(team.is_launched, newcomer) as stop:
        relink_finished_work(workspace, name)
        claimed = claim(job, store, lambda: is_kept(workspace, name))
        if not store.done:
            _train(job, store, claimed, stop, team)
        publish_outs(job, store)


def _train(job: Job, store: CheckpointStore, claimed: Claim, stop: StopRequest, team: Team) -> None:
    refuse_unspeakable(job.params.evaluate.sentences, job.params.prepare.language, job.base.tokenizer())
    if claimed.state:  # else its curve begins anew, and what waits is longer
        take_back(job.workspace, job.name, claimed.record.identity.key)
    kind: Kind = "resumed" if claimed.state else "started"
    step = claimed.state.step if claimed.state else job.start_step
    write_down(job.workspace, Happening.now(job.workspace, kind, job.name, step))
    write_pages(job.workspace, is_stage=True, is_brief=True)  # else it says that it has stopped, up to its end
    curve = Curve(job.workspace.running_curve(job.name))
    with store.with_room(lambda: _tracker(job, curve, claimed, team)) as tracker:
        save_every = job.params.checkpoints.save_every_steps
        with monitored(job.workspace, store.folder, lambda: tracker.began):
            share = opened_within_memory(job.name, lambda: Share(job.inputs(), team))
            last = job.start_step + share.plan.steps
            planned = Happening.now(job.workspace, "planned", job.name, last)
            rules = {"epochs": job.phase.epochs, "target_mel_ce": job.phase.target_mel_ce}
            write_down(job.workspace, planned.model_copy(update=rules))
            log_every = job.params.tracking.log_every_steps if share.device.type == "cuda" else 1  # a CPU never waits
            since = claimed.state.step if claimed.state else -1
            with Sampled(tracker, job.workspace, job.params, job.name) as sampled:
                told = Notified(sampled, job.workspace, job.params, job.name, since)
                run = Run(share, claimed.record, store, curve, told, save_every, log_every)
                try:
                    end = within_memory(run, lambda: _fit(run, claimed, stop))
                finally:
                    told.finish()
        store.with_room(lambda: remember_pace(job.workspace, job.name, curve.rows))
        remember_saves(job.workspace, job.name, curve.rows)
        store.with_room(lambda: _conclude(tracker, run, end.reason))
    store.mark_done(summary(run, claimed.record, end))  # last: a done phase logs nothing any more


def _fit(run: Run, claimed: Claim, stop: StopRequest) -> Ending:
    try:
        return fit(run, claimed.state, stop)
    finally:
        run.finish_saving()  # also when another process is lost: what is half-written is worth its end


def _conclude(tracker: RunTracker, run: Run, reason: str) -> None:
    best = {"best_step": str(run.position.best_step), "best_weights": run.position.best_weights}
    tracker.set_tags({"stopped": reason, **best})
    tracker.finish()


def _tracker(job: Job, curve: Curve, claimed: Claim, team: Team) -> RunTracker:
    workspace, params, record = job.workspace, job.params, claimed.record
    settings = {"seed": params.seed, "base": params.base, **job.phase.model_dump()}
    tags = {**stage_tags(workspace, job.name, data_digest(workspace)), CODE: record.identity.code}
    tags |= {from_step(CODE, step): code for step, code in record.newer_code}
    tags |= {"processes": str(team.size)}
    key = record.identity.key
    first = key if job.name == "phase1" else phase1_key(workspace, params)
    pipeline = pipeline_of(workspace, params, first, tags)
    connect = connection(workspace, params.tracking)
    tracker = track(
        connect,
        params.tracking,
        workspace.work(job.name),
        phase_run(workspace, key, settings, tags, pipeline),
        lambda: curve.rows,
        claimed.state.step if claimed.state else job.start_step,
    )
    deliver_backlog_aside(workspace, connect)
    return tracker
