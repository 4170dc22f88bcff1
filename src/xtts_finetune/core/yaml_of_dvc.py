"""What is no plain YAML, by the parser that DVC has, and what is wrong with it."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError


class _WithAnyDate(SafeConstructor):
    def construct_yaml_timestamp(self, node: Any, values: Any = None) -> Any:
        try:
            return super().construct_yaml_timestamp(node, values)
        except (ValueError, OverflowError):
            return node.value


_WithAnyDate.add_constructor("tag:yaml.org,2002:timestamp", _WithAnyDate.construct_yaml_timestamp)


def read_as_dvc(path: Path, content: bytes, title: str, any_date: bool) -> Any:
    """What the content of a file says.

    Args, raises: as of `xtts_finetune.core.yamlfile.read_yaml`.
    """
    try:
        return _parsed(content, any_date=any_date)
    except MarkedYAMLError as error:
        raise UserError(title, [_merge(path, content) or _mistake(path, error)]) from None
    except (UnicodeDecodeError, ReaderError) as error:  # the latter: control characters
        what = f"is not UTF-8 text: {str(error).splitlines()[0]}"
        raise UserError(title, [Problem(path.name, what, "save it as UTF-8")]) from None
    except (ValueError, OverflowError) as error:  # a date such as 2026-02-31
        raise UserError(title, [Problem(path.name, str(error), "correct it")]) from None
    except (KeyError, IndexError, RecursionError) as error:  # of `!!bool maybe`, `!!int ""`, a thousand brackets
        what = f"has what the parser cannot make a value of: {str(error)[:100]}"
        raise UserError(title, [Problem(path.name, what, "write plain values, without !! tags")]) from None


def said_as_dvc(content: bytes) -> Any:
    """What a content says; None where it is no YAML."""
    try:
        return _parsed(content, any_date=False)
    except (MarkedYAMLError, ReaderError, ValueError, OverflowError, KeyError, IndexError, RecursionError):
        return None


@lru_cache(maxsize=16)
def _parsed(content: bytes, *, any_date: bool) -> Any:
    """Remembered by content, as a command asks a dozen times."""
    parser = YAML(typ="safe", pure=True)
    if any_date:
        parser.Constructor = _WithAnyDate
    return parser.load(content.decode("utf-8"))


def _mistake(path: Path, error: MarkedYAMLError) -> Problem:
    line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
    return Problem(f"{path.name}{line}", f"{error.problem}", "correct this line")


def _merge(path: Path, content: bytes) -> Problem | None:
    """What git could not merge, if it left its marks."""
    for number, line in enumerate(content.splitlines(), 1):
        if line.startswith((b"<<<<<<< ", b">>>>>>> ")):
            what = "has the marks of a merge: git left the lines of both sides"
            file = quoted(path)
            remedy = f"choose a side: git checkout --ours {file}, or --theirs; or keep the right lines by hand"
            return Problem(f"{path.name}:{number}", what, remedy)
    return None
