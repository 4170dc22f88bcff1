"""`xtts-finetune clean`: what can go and what that frees; with --yes, freeing it."""

from collections.abc import Iterator
from dataclasses import dataclass

from xtts_finetune.core.disk import shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.plans import Option
from xtts_finetune.diskspace.reclaim import plan
from xtts_finetune.diskspace.sweep import free_by_place, plan_lines, sweep
from xtts_finetune.dvcio.command import give_dvc_room
from xtts_finetune.ops.archive import Archive, remotes


@dataclass(frozen=True)
class Choice:
    """What was typed."""

    intermediates: bool
    best_only: bool
    archive: str | None
    restore: bool
    yes: bool
    force: bool

    @property
    def option(self) -> Option | None:
        """The one option chosen; None: none.

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
        if self.restore and chosen != ["archive"]:
            raise _mistake("--restore needs to know from where", "add --archive REMOTE")
        if self.yes and not chosen:
            raise _mistake("--yes to what?", "choose --intermediates, --best-only or --archive REMOTE")
        return chosen[0] if chosen else None


def clean_text(workspace: Workspace, choice: Choice) -> Iterator[str]:
    """Show what can go, or do it, as was chosen.

    Raises:
        UserError: it makes no sense, or it is not safe; then nothing is lost.
    """
    option = choice.option
    if not (workspace.root / "dvc.yaml").is_file() or not (workspace.root / ".dvc").is_dir():
        problem = Problem(str(workspace.root), "is no checkout of the project", "run this in the project's root")
        raise UserError("nothing to clean here", [problem])
    give_dvc_room()
    if choice.archive is not None:
        archive = Archive(workspace, choice.archive)
        if choice.restore:
            yield from archive.restore() if choice.yes else archive.restore_plan()
        else:
            yield from archive.store(choice.force) if choice.yes else archive.store_plan(choice.force)
    elif option is None:
        yield from _overview(workspace, choice.force)
    elif choice.yes:
        yield from sweep(workspace, option, choice.force)
    else:
        found = plan(workspace, option, choice.force)
        yield from plan_lines(found)
        yield from ["", f"do it: {found.command}"] if found.items else []


def _overview(workspace: Workspace, force: bool) -> Iterator[str]:
    for place, free in free_by_place(workspace).items():
        yield f"{shown(free)} free at {place}"
    commands = []
    options: tuple[Option, ...] = ("intermediates", "best_only")
    for option in options:
        found = plan(workspace, option, force)
        yield ""
        yield from plan_lines(found)
        commands.append(found.command)
    known = ", ".join(remotes(workspace)) or "none yet: dvc remote add NAME /where"
    yield from ["", f"archive: as best-only, once the states are safe in a DVC remote ({known})"]
    commands.append("xtts-finetune clean --archive REMOTE [--restore] --yes")
    yield from ["", "do one of it, or without --yes see it by itself:", *(f"  {command}" for command in commands)]


def _mistake(what: str, remedy: str) -> UserError:
    return UserError("this makes no sense", [Problem("xtts-finetune clean", what, remedy)])
