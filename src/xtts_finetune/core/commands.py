"""Commands in messages, so that they work as they are typed: in an activated environment or not."""

import os
import re
import shlex
import sys
from pathlib import Path

_COMMAND = re.compile(
    r"(?<![\w./\\-])(?=dvc "
    r"(?:add|checkout|commit|config|exp|fetch|gc|get|metrics|plots|pull|push|remote|repro|status)\b"
    r"|xtts-finetune (?:base|clean|disk|experiments|export|history|join|plan|promote|rebuild|repro|reproduce|restore|"
    r"rollback|status|sync)\b"
    r"|mlflow (?:db|experiments|server|ui)\b"
    r"|python scripts/)"
)


def printable(text: str) -> str:
    """What somebody else wrote, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def as_typed(text: str) -> str:
    """`text` with its commands as they are typed in the project's root: `.venv/bin/dvc repro`.

    In an environment of another name, as conda's, that is active, or this could not run: there nothing is changed.
    """
    if Path(sys.prefix).name != ".venv":
        return text
    programs = ".venv\\Scripts\\" if os.name == "nt" else ".venv/bin/"
    return _COMMAND.sub(lambda _: programs, text)


def quoted(word: Path | str) -> str:
    """A path or name as it is typed in a command: `rm -r` of one with a blank in it deletes another folder."""
    return shlex.quote(str(word))
