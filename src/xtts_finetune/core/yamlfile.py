"""YAML as DVC reads it, with its parser: by YAML 1.2, 1e-6 is a number, 010 is ten, and `yes` a text."""

import re
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
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


def read_yaml(path: Path, title: str, any_date: bool = False) -> Any:
    """What a YAML file says; a repeated key is a mistake.

    Args:
        title: of the error.
        any_date: a date that no calendar has is left as text, for who wants a date to name the field. DVC refuses one.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is no YAML, and the line is named; or a folder.
    """
    if path.is_dir():
        remedy = "put or name a file instead, as presets/xtts_v2.yaml is one"
        raise UserError(title, [Problem(str(path), "is a folder", remedy)])
    content = path.read_bytes()
    try:
        return deepcopy(_parsed(content, any_date=any_date))
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


class _Core(yaml.CSafeLoader):
    """YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution) by a parser in C, ten times as fast.

    It minds no repeated key, and takes a date for a text.
    """


_TAG = "tag:yaml.org,2002:"
_DIGITS = [*"-+0123456789"]
_CORE = (  # the kind of a plain word, how it looks, and how it begins
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    ("int", r"[-+]?[0-9]+", _DIGITS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*_DIGITS, "."]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", ["-", "+", "."]),
)
_Core.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _CORE:
    _Core.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern})$"), _first)
_Core.add_constructor(f"{_TAG}int", lambda loader, node: int(node.value))


def read_written_yaml(path: Path, title: str) -> Any:
    """As `read_yaml`, of a file that DVC wrote, and of which a command asks much.

    Raises:
        As of it.
    """
    try:
        return deepcopy(_written(path.read_bytes()))
    except (yaml.YAMLError, ValueError, OverflowError, KeyError, IndexError, RecursionError, IsADirectoryError):
        return read_yaml(path, title)  # which says what is wrong


def said_in(text: str) -> Any:
    """The same of a text that another commit has; None where it is no YAML."""
    try:
        return deepcopy(_parsed(text.encode("utf-8"), any_date=False))
    except (MarkedYAMLError, ReaderError, ValueError, OverflowError, KeyError, IndexError, RecursionError):
        return None


@lru_cache(maxsize=16)
def _written(content: bytes) -> Any:
    """Remembered by content, too: a copy takes a tenth of the time."""
    return yaml.load(content, _Core)


@lru_cache(maxsize=16)
def _parsed(content: bytes, *, any_date: bool) -> Any:
    """Remembered by content, as a command asks dvc.lock forty times, and the parser takes 30 ms each."""
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
