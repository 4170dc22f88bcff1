"""Parked runs as something that holds the disk: nothing but `clean --parked KEY` deletes one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.identity import Identity, identity_of
from xtts_finetune.checkpoints.lock import trained_now, trainers_kept_out
from xtts_finetune.checkpoints.parking import Parked, continues, described, free_place, parked, record_of, shaping
from xtts_finetune.core.disk import files_below, freed_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import discard
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.look import once_a_look
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.core.yamlfile import read_yaml
from xtts_finetune.dvcio.outs import is_taken_over


@dataclass(frozen=True)
class ParkedRun:
    """A run that was moved aside, and how to be rid of it."""

    run: Parked
    key: str  # as it is typed: two runs of one key are numbered
    differs: dict[str, Any]  # its settings that params.yaml has otherwise

    @property
    def command(self) -> str:
        return f"xtts-finetune clean --parked {self.key} --yes"

    @property
    def files(self) -> list[Path]:
        return list(files_below(self.run.folder))

    def __str__(self) -> str:
        best = "no evaluation" if self.run.best_mel_ce is None else f"best Mel CE {self.run.best_mel_ce:.3f}"
        settings = [f"{name.partition('.')[2]} {value}" for name, value in sorted(self.differs.items())]
        lacks = [] if self.run.goes_on else ["cannot go on: no state of it is left, only its best weights"]
        return ", ".join([f"parked {self.run.phase} {self.key} at step {self.run.step}", best, *settings, *lacks])


@once_a_look
def parked_runs(workspace: Workspace) -> Sequence[ParkedRun]:
    """Every parked run, by phase and key; first those that still lie in work/<phase>/, which others are to have."""
    now = _settings(workspace.params)
    return [
        ParkedRun(
            run,
            _typed_key(workspace, run),
            _differing(run.params, now),
        )
        for run in (*_to_be_parked(workspace), *parked(workspace))
    ]


def trained_otherwise(workspace: Workspace, phase: PhaseName) -> dict[str, Any]:
    """The settings of the run in work/<phase>/ that params.yaml has otherwise by now; none before its first state."""
    record = record_of(workspace.work(phase))
    return _differing(shaping(record), _settings(workspace.params))


def _differing(settings: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if now.get(name) != value}


def _typed_key(workspace: Workspace, run: Parked) -> str:
    is_parked = run.folder.parent == workspace.parked_work(run.phase, run.key).parent and run.folder.suffix
    place = run.folder if is_parked else free_place(workspace, run.phase, run.key)
    return place.name.removeprefix(f"{run.phase}.")


def _to_be_parked(workspace: Workspace) -> Iterator[Parked]:
    """The runs in work/ that params.yaml does not ask for; a live trainer's, or one that DVC has all of, is none."""
    try:
        params = load_params(workspace.params)
    except UserError:  # then nobody knows
        return
    live = trained_now(workspace)
    for phase in PHASES:
        work, identity = workspace.work(phase), _identity(workspace, params, phase)
        record = None if phase in live else record_of(work)
        if record is None or identity is None or continues(work, identity):
            continue
        if not is_taken_over(workspace, phase):  # last: it may read every byte
            yield described(work, phase, record.identity.key)


def _identity(workspace: Workspace, params: Params, phase: PhaseName) -> Identity | None:
    """None, too, where what prepare or the phase before left is damaged: that is for the next stage to say."""
    try:
        return identity_of(workspace, params, phase)
    except UserError:
        return None


def find_parked(workspace: Workspace, key: str) -> ParkedRun:
    """The parked run of that key.

    Raises:
        UserError: there is none; it names those that there are.
    """
    runs = parked_runs(workspace)
    for run in runs:
        if run.key == key:
            return run
    known = "".join(f"\n        {run}" for run in runs)
    what, remedy = f"is the key of no parked run; there is:{known}", "choose one of them"
    if not runs:
        what = "no run is parked: one is when a setting that shapes its weights changes before DVC has all of it"
        remedy = "see what else can go: xtts-finetune clean"
    raise UserError("no such run", [Problem(f"--parked {key}", what, remedy)])


def delete_parked(workspace: Workspace, key: str) -> str:
    """Delete a parked run, but for what MLflow lacks of it; what that freed.

    Raises:
        UserError: there is none, or a trainer of its phase is at work, which may be about to take it back.
    """
    from xtts_finetune.tracking.backlog import set_aside_run  # loads what delivers to MLflow

    with trainers_kept_out(workspace) as live, trainers_kept_out(workspace.queue) as queued:
        chosen = find_parked(workspace, key)
        if chosen.run.phase in live | queued:
            what = f"{chosen.run.phase} is being trained, and could be taking it back"
            raise UserError("not now", [Problem(str(chosen.run.folder), what, "wait for the trainer, or stop it")])
        freed = freed_bytes(chosen.files)
        set_aside_run(workspace, chosen.run.folder)
        discard(chosen.run.folder)
    return f"{chosen}: gone, {shown(freed)} freed"


def _settings(params: Path) -> dict[str, Any]:
    """Of params.yaml, flat; nothing where it cannot be read, which is no matter here."""
    try:
        content = read_yaml(params, "")
        sections = {name: section for name, section in content.items() if isinstance(section, dict)}
    except (OSError, UserError, AttributeError):
        return {}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
