"""Errors a user can act on, and the exit codes of every command.

A user's mistake is a `UserError`: all problems in one message, each naming where, what and the remedy; it ends
the process with `EXIT_USER` and no traceback. Anything else that escapes is a bug and keeps its traceback.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.layout import PhaseName

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER = 2
EXIT_RESUMABLE = 75  # EX_TEMPFAIL: stopped with everything saved; run again to resume


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` (file, file:line or file: key), `what` is wrong there, and the `remedy`."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return as_typed(f"  {self.where}\n      {self.what}\n      remedy: {self.remedy}")


class UserError(Exception):
    """One or more problems that the user can fix. Ends the process with exit code 2."""

    def __init__(self, title: str, problems: Iterable[Problem]) -> None:
        self.title = title
        self.problems = list(problems)
        assert self.problems, "a UserError names at least one problem"
        super().__init__("\n".join([title, *map(str, self.problems)]))


def problems_of(step: Callable[[], object]) -> list[Problem]:
    """What a step says is wrong, so that those of several steps come in one message; nothing where it succeeds."""
    try:
        step()
    except UserError as error:
        return error.problems
    return []


class Stopped(Exception):
    """The work cannot go on now; all that was saved is whole. Ends the process with exit code 75."""


class DiskFull(Stopped):
    """A full disk, a quota or a limit on file sizes; its cause is the error that said so."""


class OutOfMemory(Stopped):
    """A device's memory does not hold a step or an evaluation; its cause is the error that said so.

    Attributes:
        phase: that was trained.
    """

    def __init__(self, text: str, phase: PhaseName) -> None:
        super().__init__(text)
        self.phase = phase


def exit_code_of(main: Callable[[], None]) -> int:
    """Run `main` and turn its outcome into an exit code; messages go to stderr.

    Bugs are re-raised, so that their traceback is seen (Python then exits with 1).
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Stopped as stop:
        print(as_typed(f"stopped: {stop}"), file=sys.stderr)
        return EXIT_RESUMABLE
    except KeyboardInterrupt:
        print("stopped: interrupted", file=sys.stderr)
        return EXIT_RESUMABLE
    return EXIT_DONE
