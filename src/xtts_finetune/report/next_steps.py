"""What to type next: commands that are right at this moment."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xtts_finetune.core.disk import shown
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.dvcio.outs import is_cached, lost_states, out_path
from xtts_finetune.report.content import Disk, Next

_FULL = 1 << 20  # bytes: with less, rows of a curve wait in memory
SILENT = (
    "ended without a word: it was killed, by whom the system's log may say (out of memory?), or the machine stopped"
)


@dataclass(frozen=True)
class Begun:
    """A run in work/<phase>/ that params.yaml does not ask for any more.

    Attributes:
        settings: that it was begun with, and that params.yaml has otherwise.
        goes_on: a state of it is left.
    """

    phase: PhaseName
    settings: dict[str, Any]
    goes_on: bool = True

    def __str__(self) -> str:
        named = [f"{name.partition('.')[2]} {value}" for name, value in sorted(self.settings.items())]
        return f"{self.phase} was begun with {', '.join(named) or 'another seed or base, other recordings or code'}"


@dataclass(frozen=True)
class Standing:
    """What it depends on.

    Attributes:
        params: None: params.yaml has mistakes.
        live: phases that are being trained.
        running: the stage that DVC runs.
        otherwise: runs that are trained, or lie in work/, with other settings.
        is_complete: every stage has left what it leaves, and of this run.
        is_waiting: MLflow lacks something.
        is_to_be_promoted: what is registered is not the champion.
        goes_on: a stage has ended, and DVC begins the next.
        is_left_behind: a phase is trained, and no DVC waits for it.
        has_stopped: a stage has said why.
        is_dvc_stuck: it cannot read its own list of who is at work.
        experiments: how many of DVC's there are.
        put_away: phases that have not begun, whose models of a run before are in DVC's cache alone.
    """

    workspace: Workspace
    params: Params | None
    live: set[PhaseName]
    running: str | None
    otherwise: list[Begun]
    room: Disk
    is_complete: bool
    is_waiting: bool
    is_to_be_promoted: bool
    goes_on: bool
    is_left_behind: bool
    has_stopped: bool
    is_dvc_stuck: bool
    put_away: list[PhaseName]
    experiments: int


def next_steps(now: Standing) -> list[Next]:
    """In the order in which they are typed; nothing where something has to be mended, or waited for, first."""
    return [] if now.params is None or now.is_dvc_stuck or _base_is_missing(now) else list(_steps(now))


def remarks(now: Standing) -> list[str]:
    """What there is to do that is no command."""
    if now.params is None:
        return [f"mend {now.workspace.params.name}"]
    if _base_is_missing(now):
        folder = (now.workspace.base / now.params.base).resolve()
        return [
            f"params.yaml: base = {now.params.base}: there is no folder {folder}",
            "it starts in base/, so that a folder beside it is ../FOLDER; XTTS v2 itself: xtts-finetune base fetch",
        ]
    if now.live:
        as_begun = "and is trained with that to its end, whatever params.yaml says by now"
        told = [f"{begun}, {as_begun}" for begun in now.otherwise]
        full = "the disk is full: training goes on in memory, and the figures here may stand still until there is room"
        is_full = now.room.free_bytes < _FULL
        alone = "its dvc repro is gone: type dvc repro again when it is done, which goes on behind it"
        beside = [*([alone] if now.is_left_behind else []), *([full] if is_full else [])]
        return [f"{' and '.join(sorted(now.live))} is being trained: wait for it", *told, *beside]
    if now.running:
        return ["DVC ends: wait for it" if now.has_stopped else f"{now.running} runs: wait for it"]
    if now.is_dvc_stuck:
        return [
            "a full disk cut short .dvc/tmp/rwlock: delete it, when no other dvc runs here; till then dvc runs nothing"
        ]
    if now.goes_on and not now.is_complete:
        return ["dvc repro goes on with the next stage"]
    if now.otherwise:
        back = "; set them back to go on"
        return [
            f"{begun}: dvc repro parks it and begins anew{back if begun.goes_on else ''}" for begun in now.otherwise
        ]
    if now.put_away:
        models = " ".join(f"models/{phase}" for phase in now.put_away)
        back = f"dvc checkout {models} brings its weights back, and git its reports, if they were committed"
        return [f"the run before is in DVC's cache: {back}"]
    if now.is_complete:
        return ["listen to reports/samples/: base, phase1 and phase2 say the same sentences"]
    return []


def _base_is_missing(now: Standing) -> bool:
    params = now.params
    return params is not None and params.base != "mini" and not (now.workspace.base / params.base).is_dir()


def _steps(now: Standing) -> Iterator[Next]:
    if now.live or now.running:
        yield Next(command="xtts-finetune status --watch", why="shows it as it goes")
        return
    if now.goes_on and not now.is_complete:
        return
    if not now.goes_on and lost_states(now.workspace):
        pull = "dvc pull checkpoints/phase1 checkpoints/phase2"
        yield Next(command=pull, why="brings states back, if a DVC remote has them;")
        clean = "xtts-finetune clean --best-only --yes"
        yield Next(command=clean, why="lets dvc.lock name models/ alone: no training again")
    if now.is_waiting:
        yield Next(command="xtts-finetune sync", why="brings to MLflow what it has not got yet")
    if not now.is_complete and not now.workspace.data.exists():
        yield from _recordings(now.workspace)
        return
    if not now.is_complete and now.room.missing_bytes:
        yield from _room(now.room)
        return
    if now.experiments:
        count = f"{now.experiments} experiments" if now.experiments > 1 else "the experiment"
        yield Next(command="xtts-finetune experiments", why=f"compares {count} with this, the best first")
    if not now.is_complete:
        goes_on = "runs what is missing, and resumes what was stopped"
        yield Next(command="dvc repro", why="parks what was begun, and begins anew" if now.otherwise else goes_on)
        return
    if now.is_to_be_promoted:
        yield Next(command="xtts-finetune promote", why="makes it champion, if it is better than the champion")
    yield Next(command="mlflow ui", why="compare phase 1 and phase 2, at http://127.0.0.1:5000")
    yield Next(command="dvc plots show", why="the curves as a page")
    yield Next(command="dvc metrics diff", why="what changed since the last commit")


def _recordings(workspace: Workspace) -> Iterator[Next]:
    """What brings data/ back, or says what does: `dvc repro` does not."""
    if is_cached(workspace, out_path(workspace, workspace.data)):
        yield Next(command="dvc checkout data", why="brings the recordings back, which DVC's cache has;")
        yield Next(command="dvc repro", why="goes on when they are there")
    else:
        bootstrap = "python scripts/bootstrap_data.py"
        yield Next(command=bootstrap, why="makes data/ of the starter recordings, or says how yours come back")


def _room(room: Disk) -> Iterator[Next]:
    """What frees enough for the next phase; else how much is missing."""
    enough = next((way for way in room.ways if way.frees_bytes >= room.missing_bytes), None)
    lacks = f"{room.next_stage} lacks {shown(room.missing_bytes)} on {room.full_disk}"
    if enough:
        yield Next(command=enough.command.removesuffix(" --yes"), why=f"shows what can go: {lacks};")
        yield Next(command="dvc repro", why="goes on when that is gone")
    else:
        yield Next(command="xtts-finetune disk", why=f"shows what lies here: {lacks}")
