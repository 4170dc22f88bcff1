"""YAML as DVC reads it: by YAML 1.2, 1e-6 is a number, 010 is ten, and `yes` a text.

DVC's parser takes 30 ms for a params.yaml. One in C takes a tenth, and goes by YAML 1.1: it is given what both take
alike, and leaves the rest, and whatever is wrong, to DVC's.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from xtts_finetune.core.errors import Problem, UserError


def read_yaml(path: Path, title: str, any_date: bool = False) -> Any:
    """What a YAML file says; not to be changed, as it is remembered. A repeated key is a mistake.

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
        return _quickly(content)
    except _NOT_QUICKLY:
        from xtts_finetune.core.yaml_of_dvc import read_as_dvc

        return read_as_dvc(path, content, title, any_date)


def said_in(text: str) -> Any:
    """The same of a text that another commit has; None where it is no YAML."""
    content = text.encode("utf-8")
    try:
        return _quickly(content)
    except _NOT_QUICKLY:
        from xtts_finetune.core.yaml_of_dvc import said_as_dvc

        return said_as_dvc(content)


class _Core(yaml.CSafeLoader):
    """YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution) by the parser in C."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a repeated key")
        return mapping


def _leave(loader: Any, node: Any) -> Any:
    raise yaml.constructor.ConstructorError(problem="what only DVC's parser knows")


_TAG = "tag:yaml.org,2002:"
_DIGITS = [*"-+0123456789"]
_CORE = (  # the kind of a plain word, how it looks, and how it begins
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    # which DVC's parser takes for a number, or not, a date, a merge, or what it refuses, by rules of its own
    ("unsure", r"[-+]?0[box]\w*|[-+]?[0-9._]*_[0-9._]*([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+[eE][0-9]+", [*_DIGITS, "."]),
    ("unsure", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|<<|=", [*_DIGITS, "<", "="]),
    ("int", r"[-+]?[0-9]+", _DIGITS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*_DIGITS, "."]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", ["-", "+", "."]),
)
_Core.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _CORE:
    _Core.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern})$"), _first)
_Core.add_constructor(f"{_TAG}int", lambda loader, node: int(node.value))
_Core.add_constructor(f"{_TAG}unsure", _leave)

_COMMENT = re.compile(r"""^((?:[^"'#\n]|(?<=\S)#)*)(?<!\S)#.*""", re.MULTILINE)  # behind no quotes: they may hold the #
_BREAKS = re.compile(r"[\r\x85\u2028\u2029\ufeff]")  # what not both take for the end of a line
# Tags, anchors and aliases; directives and complex keys; ends of documents; texts of several lines; keys as of JSON;
# escapes and tabs; what is deep in others.
_RARE = re.compile(
    r"(?:^|[\s,\[{:-])[!&*]|^[%?]|^\.\.\.|[|>][-+0-9]*\s*(?:#|$)|[\"']:\S|[\\\t]|^[ -]{100}", re.MULTILINE
)
_MOST_BRACKETS = 100  # DVC's parser goes a few hundred deep
_NOT_QUICKLY = (yaml.YAMLError, ValueError, OverflowError, KeyError, IndexError, RecursionError)


@lru_cache(maxsize=16)
def _quickly(content: bytes) -> Any:
    """Remembered by content, as a command asks dvc.lock forty times.

    Raises:
        any of _NOT_QUICKLY: it is not certain that DVC takes it so.
    """
    text = content.decode("utf-8")
    bare = _COMMENT.sub(r"\1", text)
    if _BREAKS.search(text) or _RARE.search(bare) or bare.count("[") + bare.count("{") > _MOST_BRACKETS:
        raise ValueError("not as both parsers read it")
    return yaml.load(text, _Core)
