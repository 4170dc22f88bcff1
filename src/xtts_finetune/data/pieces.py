"""The file that `vocabulary.extend` names: what is to be added to a vocabulary, a line each."""

from pathlib import Path, PurePath
from typing import NamedTuple

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import contained

TITLE = "the vocabulary cannot be extended"
_FORM = "a character, a piece of a word or a language's code as [hu] on each line, in UTF-8"


class Piece(NamedTuple):
    """A line of the file."""

    text: str
    where: str  # file:line, for messages


def read_pieces(data: Path, name: str) -> list[Piece]:
    """The lines of `data`/`name` that are not blank, in its order.

    Raises:
        UserError: the file is missing, outside `data`, not UTF-8 or empty, or lines have blanks in them; all at once.
    """
    key = f"params.yaml: vocabulary.extend = {name!r}"
    shown = f"{data.name}/{name}"
    remedy = f"write auto, null or the name of a file in {data.name}/ with {_FORM}"
    file = contained(data, str(PurePath(name).parent), key) / PurePath(name).name  # itself it may be DVC's link
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        what = f"{shown} cannot be read: {error.strerror or error}"
        raise UserError(TITLE, [Problem(key, what, remedy)]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(TITLE, [Problem(f"{shown}:{line}", "is not UTF-8 text", "save it as UTF-8")]) from None
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    pieces = [Piece(line, f"{shown}:{number}") for number, line in lines if line]
    if not pieces:
        raise UserError(TITLE, [Problem(shown, "is empty", f"write {_FORM}")])
    blanks = [each for each in pieces if any(character.isspace() for character in each.text)]
    if blanks:
        what = "has a blank in it, and no piece goes beyond a word"
        raise UserError(TITLE, [Problem(each.where, f"{each.text!r} {what}", f"write {_FORM}") for each in blanks])
    return pieces
