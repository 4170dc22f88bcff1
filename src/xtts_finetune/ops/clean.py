"""`xtts-finetune clean`: what can go and what that frees; with --yes, freeing it."""

from collections.abc import Iterator
from dataclasses import dataclass

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import freed_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.again import phase_again
from xtts_finetune.diskspace.parked import delete_parked, find_parked
from xtts_finetune.diskspace.plan import Option, Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.diskspace.sweep import free_by_place, plan_lines, sweep
from xtts_finetune.dvcio.command import give_dvc_room
from xtts_finetune.ops.archive import Archive, remotes

_BY_ITSELF = "run the other command by itself"


@dataclass(frozen=True)
class Choice:
    """What was typed."""

    intermediates: bool
    best_only: bool
    archive: str | None
    restore: bool
    yes: bool
    force: bool
    history: bool = False
    parked: str | None = None
    versions: str | None = None

    def refuse_beside_versions(self) -> None:
        """Raises UserError: --versions, which is another command's, goes with another flag than --yes."""
        others = (self.intermediates, self.best_only, self.archive, self.restore, self.force, self.history, self.parked)
        if any(others):
            raise _mistake("--versions deletes registered versions, and goes with --yes alone", _BY_ITSELF)

    @property
    def request(self) -> Request | None:
        """What the one option chosen asks for; None: none was.

        Raises:
            UserError: several, or flags that do not go together.
        """
        flags: dict[Option, bool] = {
            "intermediates": self.intermediates,
            "best_only": self.best_only,
            "archive": self.archive is not None,
        }
        chosen = [option for option, is_chosen in flags.items() if is_chosen]
        if len(chosen) > 1:
            raise _mistake("--intermediates, --best-only and --archive exclude each other", "choose one of them")
        if self.parked is not None and (chosen or self.restore or self.force or self.history):
            raise _mistake("--parked deletes one run, and goes with --yes alone", _BY_ITSELF)
        if self.restore and chosen != ["archive"]:
            raise _mistake("--restore needs to know from where", "add --archive REMOTE")
        if self.yes and not chosen and self.parked is None:
            raise _mistake("--yes to what?", "choose --intermediates, --best-only or --archive REMOTE, or --parked KEY")
        return Request(chosen[0], self.force, self.history) if chosen else None


def clean_text(workspace: Workspace, choice: Choice) -> Iterator[str]:
    """Show what can go, or do it, as was chosen.

    Raises:
        UserError: it makes no sense, or it is not safe; then nothing is lost.
    """
    request = choice.request
    if not (workspace.root / "dvc.yaml").is_file() or not (workspace.root / ".dvc").is_dir():
        problem = Problem(str(workspace.root), "is no checkout of the project", "run this in the project's root")
        raise UserError("nothing to clean here", [problem])
    if choice.parked is not None:
        yield from _clean_parked(workspace, choice.parked, choice.yes)
        return
    if choice.yes:
        _refuse_beside_the_queue(workspace)
    give_dvc_room()
    if request is None:
        yield from _overview(workspace, choice)
    elif choice.archive is not None:
        archive = Archive(workspace, choice.archive)
        if choice.restore:
            yield from archive.restore() if choice.yes else archive.restore_plan()
        else:
            yield from archive.store(request) if choice.yes else archive.store_plan(request)
    elif choice.yes:
        yield from sweep(workspace, request)
    else:
        plan = make_plan(workspace, request)
        yield from plan_lines(plan)
        yield from ["", f"do it: {request.command}"] if plan.items or plan.outs else []


def _refuse_beside_the_queue(workspace: Workspace) -> None:
    """What an experiment of DVC's queue has finished is named by nobody until all of it is done.

    Raises:
        UserError: one runs, or was killed with the machine.
    """
    problems = [
        Problem(
            copy.relative_to(workspace.root).as_posix(),
            "is the copy of an experiment of DVC's queue: what it has in DVC's cache is named by nobody yet",
            f"wait for it (dvc queue status), or where none runs: rm -r {quoted(copy.relative_to(workspace.root))}",
        )
        for copy in workspace.copies()
    ]
    if problems:
        raise UserError("not now", problems)


def _clean_parked(workspace: Workspace, key: str, yes: bool) -> Iterator[str]:
    if yes:
        yield delete_parked(workspace, key)
        return
    parked = find_parked(workspace, key)
    yield f"{parked}: frees {shown(freed_bytes(parked.files))}"
    again = phase_again(workspace, parked.run.phase, parked.run.folder)
    yield f"makes it again: its settings in params.yaml (seed, base and recordings, too), then {again}"
    yield from ["", f"do it: {parked.command}"]


def _overview(workspace: Workspace, choice: Choice) -> Iterator[str]:
    for place, free in free_by_place(workspace).items():
        yield f"{shown(free)} free at {place}"
    commands = []
    options: tuple[Option, ...] = ("intermediates", "best_only")
    for option in options:
        request = Request(option, choice.force, choice.history)
        yield ""
        plan = make_plan(workspace, request)
        yield from plan_lines(plan)
        commands += [request.command] if plan.items else []
    known = ", ".join(remotes(workspace)) or "none yet: dvc remote add NAME /where"
    yield from ["", f"archive: as best-only, once the states are safe in a DVC remote ({known})"]
    commands.append("xtts-finetune clean --archive REMOTE [--restore] --yes")
    yield from ["", "what to type (without --yes it shows one by itself):", *(f"  {command}" for command in commands)]


def _mistake(what: str, remedy: str) -> UserError:
    return UserError("this makes no sense", [Problem("xtts-finetune clean", what, remedy)])
