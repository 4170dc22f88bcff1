"""Where a run stands, from what lies in its workspace: nothing is asked of MLflow, and no network is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from xtts_finetune.checkpoints.lock import is_held_elsewhere, trained_now
from xtts_finetune.core.disk import free_bytes
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.look import ahead, one_look
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.parked import ParkedRun, parked_runs, trained_otherwise
from xtts_finetune.dvcio.coming_back import coming_back
from xtts_finetune.dvcio.command import is_cut_short, running_stage
from xtts_finetune.dvcio.history import experiments, revisions
from xtts_finetune.dvcio.outs import is_cached, out_path
from xtts_finetune.dvcio.queue import running_experiments
from xtts_finetune.report.content import Best, Data, Disk, Parked, Phase, Queued, Report, State, Waiting
from xtts_finetune.report.course import as_begun, best_of, phase_of, start_of
from xtts_finetune.report.differences import since_champion, since_commit
from xtts_finetune.report.next_steps import SILENT, Begun, Standing, next_steps, remarks
from xtts_finetune.report.origin import (
    OURS,
    began_with,
    goes_on_from,
    is_evaluated,
    is_of_an_earlier_run,
    model_card,
    tells,
    whose_figures,
)
from xtts_finetune.report.registration import Registration
from xtts_finetune.report.room import room
from xtts_finetune.tracking.journal import BEGUN, latest, planned
from xtts_finetune.tracking.waiting import damaged, waiting

Stage = Literal["check", "prepare", "phase1", "phase2", "evaluate"]
# Of params.yaml, what people ask for first.
_MAIN = ("method", "epochs", "batch_size", "accumulate", "lr", "schedule", "precision", "target_mel_ce")


def gather(
    workspace: Workspace, ended: Stage | None = None, disk: Disk | None = None, is_stage: bool = False
) -> Report:
    """What there is to say now.

    Args:
        ended: the stage that calls, as its last act: dvc.lock does not name yet what it left.
        disk: of a report of just now, of which only what is free is asked again.
        is_stage: a stage calls, within DVC: it is not asked what its cache would bring back, as it is busy.

    Raises:
        UserError: this is no checkout, or what DVC or an earlier stage left is damaged. A mistake in params.yaml is
            told in the report.
    """
    with one_look():
        if disk is None:
            ahead(revisions, workspace.home)  # git takes as long as most of the rest
        return _Gathering(workspace, ended, disk, is_stage).report()


@dataclass(frozen=True)
class _Gathering:
    workspace: Workspace
    ended: Stage | None
    known_disk: Disk | None
    is_stage: bool

    def report(self) -> Report:
        at, params = self.workspace, self.params
        return Report(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            state=self._state(),
            running=self.running,
            queue=self.queue,
            stopped=self._stopped or self._silent,
            mistakes=self.mistakes,
            data=_data(at),
            base=self._base,
            phases=self.phases,
            whose=self._whose,
            target_mel_ce={phase.name: phase.target_mel_ce for phase in self.phases} if params else {},
            seconds_left=self._seconds_left,
            registered=str(self._registration),
            version=self._registration.of_this_run,
            settings=dict(_settings(params)) if params else {},
            changed_since_commit=since_commit(at, params) if params else [],
            changed_since_champion=since_champion(at, params, self._registration) if params else None,
            disk=self._disk,
            parked=[_parked(run) for run in self.parked if not self._is_told(run)],
            mlflow=self._waiting,
            next=next_steps(self._standing),
            remarks=remarks(self._standing),
        )

    @cached_property
    def _read(self) -> tuple[str | None, Params | None]:
        try:
            return None, load_params(self.workspace.params)
        except UserError as error:
            if not self.workspace.params.exists():
                raise
            return str(error), None

    @property
    def mistakes(self) -> str | None:
        return self._read[0]

    @property
    def params(self) -> Params | None:
        return self._read[1]

    @cached_property
    def live(self) -> set[PhaseName]:
        return trained_now(self.workspace) if self.ended is None else set()

    @cached_property
    def running(self) -> str | None:
        """For who looks from outside: a stage knows what it is."""
        return None if self.is_stage else running_stage(self.workspace)

    @cached_property
    def queue(self) -> list[Queued]:
        running = [Queued(name=name, stage=stage) for name, stage in running_experiments(self.workspace).items()]
        alone = sorted(trained_now(self.workspace.queue)) if not running else []
        return [*running, *(Queued(name=None, stage=f"train_{phase}") for phase in alone)]

    def _is_told(self, run: ParkedRun) -> bool:
        """Whether it is not parked yet, or is of the experiment that runs now, which is at another stage."""
        is_queued = bool(self.queue) and run.run.folder == self.workspace.queue.work(run.run.phase)
        return is_queued or run in self._told_otherwise

    @cached_property
    def parked(self) -> Sequence[ParkedRun]:
        return parked_runs(self.workspace)

    @cached_property
    def back(self) -> list[PhaseName]:
        """DVC is asked, which takes seconds: not while it, or a trainer, is at work."""
        return [] if self.is_stage or self.live or self.running else coming_back(self.workspace)

    @cached_property
    def phases(self) -> list[Phase]:
        metrics = dict(self._metrics())
        displaced = {run.run.phase for run in self._displaced}
        return [
            phase_of(
                self.workspace,
                phase,
                self.params.phase(phase) if self.params else None,
                metrics=metrics.get(phase),
                is_live=phase in self.live or self._begins(phase),
                is_displaced=phase in displaced,
                comes_back=phase in self.back,
            )
            for phase in PHASES
        ]

    def _begins(self, phase: PhaseName) -> bool:
        """DVC has begun with it, and it has not come to train; what stopped it says so until DVC has ended."""
        return self.running == f"train_{phase}" and not self.workspace.stopped.exists()

    @cached_property
    def _told_otherwise(self) -> list[ParkedRun]:
        """Those of `_displaced` that `next_steps.Begun` tells of: they are not parked yet."""
        phases = {begun.phase for begun in self._otherwise}
        return [run for run in self._displaced if run.run.phase in phases]

    @property
    def _displaced(self) -> list[ParkedRun]:
        """Runs in work/<phase>/ that are to be parked."""
        return [run for run in self.parked if run.run.folder == self.workspace.work(run.run.phase)]

    def _metrics(self) -> Iterator[tuple[PhaseName, dict[str, Any]]]:
        """Of the phases that are done; a phase after one that is not, or was since, has those of the run before."""
        before: dict[str, Any] | None = None  # of a phase that was trained here
        for phase in PHASES:
            figures = _read(self.workspace.metrics(phase))
            if figures is None:
                return
            is_told = tells(model_card(self.workspace, phase), figures)
            if before and not self._goes_on_from(before, phase, figures, is_told):
                return
            before = figures if is_told else None
            yield phase, figures
            if phase == self.ended:
                return

    def _goes_on_from(self, before: dict[str, Any], phase: PhaseName, figures: dict[str, Any], is_told: bool) -> bool:
        """Whether phase 2 was warm-started from this phase 1: by weights where they are known, else by figures and DVC.

        Args:
            is_told: its model is here, and says the same figures.
        """
        began, card = began_with(self.workspace, phase, figures), model_card(self.workspace, PHASES[0])
        if is_told and began and card:
            return bool(card.get("sha256") == began)
        is_alike = is_told and goes_on_from(figures, before)
        return is_alike or not (self.running or is_of_an_earlier_run(self.workspace, phase))

    @property
    def _base(self) -> Best | None:
        """By what phase 1 began with, also while it trains."""
        first = next((figures for _, figures in self._metrics()), None)
        return best_of({"step": 0, "eval": first["start"]}) if first else start_of(self.phases[0])

    @cached_property
    def _whose(self) -> str | None:
        """A stage that has just ended knows better than dvc.lock, which DVC writes behind it."""
        done = [phase.name for phase in self.phases if phase.state == "done"]
        if done and self.ended in (*PHASES, "evaluate"):
            return OURS
        return whose_figures(self.workspace, self.params, done)

    @cached_property
    def _stopped(self) -> str | None:
        """Nothing where all is done since: DVC may have brought the rest from its cache, without a stage."""
        page = self.workspace.stopped
        if (not self.is_stage and self._is_complete) or not page.exists() or self._is_stop_passed_over:
            return None
        if self._otherwise and not self.live and not self.running and self.ended is None:
            return None  # of a run that does not go on: it is told with what it was begun with
        return page.read_text(encoding="utf-8").strip()

    @property
    def _is_stop_passed_over(self) -> bool:
        """What stopped does not go on: of the phase DVC's cache has a run that params.yaml asks for by now."""
        gone = [phase for phase in self.back if not self.workspace.model(phase).is_dir()]
        last = [latest(self.workspace, phase) for phase in gone]
        return any(each.kind == "stopped" for each in last if each)

    def _state(self) -> State:
        if self.live:
            return "training"
        if self._stopped or any(phase.state in ("stopped", "trained") for phase in self.phases):
            return "stopped"
        if self._is_complete:
            return "evaluated"
        if self._is_trained and any(self.workspace.model(phase).is_dir() for phase in PHASES):
            return "trained" if self._whose == OURS else "outdated"
        return "prepared" if self.workspace.dataset_report.exists() else "nothing prepared"

    @property
    def _is_trained(self) -> bool:
        return all(phase.state == "done" for phase in self.phases)

    @cached_property
    def _is_complete(self) -> bool:
        """Whether every stage has left what it leaves, and of this run."""
        at = self.workspace
        left = [at.prepared, *(at.model(phase) for phase in PHASES), at.registration]
        if not self._is_trained or not all(each.exists() for each in left) or self._registration.is_of_another_run:
            return False
        return self.ended == "evaluate" or (is_evaluated(at, self.params) and self._whose == OURS)

    @property
    def _seconds_left(self) -> float | None:
        left = [phase.seconds_left for phase in self.phases if phase.state not in ("done", "in DVC's cache")]
        return sum(each for each in left if each is not None) if left and None not in left else None

    @cached_property
    def _waiting(self) -> Waiting:
        runs = waiting(self.workspace, self.live)
        return Waiting(
            runs=len(runs),
            points=sum(run.points for run in runs),
            models=sum(run.registration for run in runs),
            damaged=[f"{each.where} {each.what}\nremedy: {each.remedy}" for each in damaged(self.workspace)],
        )

    @cached_property
    def _registration(self) -> Registration:
        return Registration.read(self.workspace, self.params)

    @cached_property
    def _standing(self) -> Standing:
        return Standing(
            self.workspace,
            self.params,
            self.live,
            running=self.running,
            otherwise=self._otherwise,
            room=self._disk,
            is_complete=self._is_complete,
            is_waiting=self._waiting.runs > 0,
            is_to_be_promoted=self._is_complete and self._registration.is_to_be_promoted,
            goes_on=self.ended is not None,
            has_stopped=self._stopped is not None,
            is_dvc_stuck=not self.is_stage and is_cut_short(self.workspace),
            put_away=[phase.name for phase in self.phases if phase.state == "not started" and self._is_put_away(phase)],
            experiments=0 if self.is_stage or self.live or self.running else len(experiments(self.workspace)),
            is_left_behind=bool(self.live) and not self.is_stage and not self.running,
        )

    def _is_put_away(self, phase: Phase) -> bool:
        """DVC took the model of a run before out of its place for a stage that then did not begin to train."""
        model = self.workspace.model(phase.name)
        return not model.exists() and is_cached(self.workspace, out_path(self.workspace, model))

    @property
    def _silent(self) -> str | None:
        """Whatever ends a training by itself is written down; a kill is not."""
        for phase in self.phases:
            last = latest(self.workspace, phase.name) if phase.state == "stopped" and not self.running else None
            if last and last.kind in BEGUN and not is_held_elsewhere(self.workspace.work(phase.name)):
                return f"{phase.name} {SILENT}"
        return None

    @cached_property
    def _otherwise(self) -> list[Begun]:
        """Runs in work/<phase>/ that params.yaml does not ask for by now."""
        if self.params is None:
            return []
        if self.live:
            settings = {phase: self._begun_with(phase) for phase in sorted(self.live)}
            return [Begun(phase, differs) for phase, differs in settings.items() if differs]
        done = {name for name, _ in self._metrics()}
        left = [run for run in self._displaced if run.run.phase not in (*done, *self.back)]
        return [Begun(run.run.phase, run.differs, run.run.goes_on) for run in left]

    def _begun_with(self, phase: PhaseName) -> dict[str, Any]:
        """What the phase that is trained was begun with, and params.yaml has otherwise."""
        settings = trained_otherwise(self.workspace, phase)
        plan, rules = planned(self.workspace, phase), self.params.phase(phase) if self.params else None
        if plan and rules:
            begun, now = as_begun(rules, plan).model_dump(), rules.model_dump()
            settings |= {f"train_{phase}.{name}": told for name, told in begun.items() if told != now[name]}
        return settings

    @cached_property
    def _disk(self) -> Disk:
        if self.known_disk is None:
            is_here = self._is_trained and all(self.workspace.model(phase).is_dir() for phase in PHASES)
            to_be_evaluated = is_here and self.ended != "evaluate" and not self._is_complete
            return room(self.workspace.home, self.params, self._without, to_be_evaluated)
        return self.known_disk.model_copy(update={"free_bytes": free_bytes(self.workspace.work(PHASES[0]))})

    @property
    def _without(self) -> list[PhaseName]:
        """Phases that need no room any more."""
        if self.ended in (*PHASES, "evaluate"):
            return list(PHASES[: PHASES.index("phase1" if self.ended == "phase1" else "phase2") + 1])
        return self.back


def _data(workspace: Workspace) -> Data | None:
    report = _read(workspace.dataset_report)
    if report is None or "clips" not in report:
        return None
    clips, hours = report["clips"], report.get("hours", {})
    return Data(
        read=clips["read"],
        accepted=clips["accepted"],
        train=clips.get("train"),
        eval=clips.get("eval"),
        hours_train=hours.get("train"),
        hours_eval=hours.get("eval"),
        rejected=[{name: str(value) for name, value in each.items()} for each in report.get("rejected", [])],
        codebook_perplexity=report.get("base", {}).get("codebook_perplexity"),
        refused=report.get("refused"),
    )


def _settings(params: Params) -> Iterator[tuple[str, str]]:
    yield "base", params.base
    yield "seed", str(params.seed)
    for phase in PHASES:
        of_phase = params.phase(phase).model_dump()
        yield from ((f"train_{phase}.{name}", str(of_phase[name])) for name in _MAIN)


def _parked(parked: ParkedRun) -> Parked:
    run = parked.run
    return Parked(phase=run.phase, key=parked.key, words=str(parked), bytes=run.bytes, command=parked.command)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content
