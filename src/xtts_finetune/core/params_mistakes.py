"""What pydantic finds wrong in params.yaml, in the user's terms."""

import difflib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.yamlfile import read_yaml

PRESET = "presets/xtts_v2.yaml"  # has every key; of what came later, the value that leaves all as it was
# what other trainers call a key, and it is here
ELSEWHERE = {
    "learning_rate": "lr",
    "gradient_accumulation_steps": "accumulate",
    "grad_accum_steps": "accumulate",
    "max_grad_norm": "grad_clip",
}


@dataclass(frozen=True)
class Mistakes:
    """Of a file that is to be a `model`."""

    path: Path
    model: type[BaseModel]
    shown_in: str = PRESET  # has every key

    def problems(self, error: ValidationError) -> list[Problem]:
        errors = error.errors()
        missing = {item["loc"] for item in errors if item["type"] == "missing"}
        unknown = [item["loc"] for item in errors if item["type"] == "extra_forbidden"]
        meant = {place: near for place in unknown if (near := self._meant(place, missing))}
        named = {(*place[:-1], near) for place, near in meant.items()}
        listed = (item for item in errors if not (item["type"] == "missing" and item["loc"] in named))
        return [self._problem(item, meant.get(item["loc"])) for item in listed]

    def _problem(self, error: Any, meant: str | None) -> Problem:
        """One pydantic error in the user's terms.

        Args:
            meant: the key that an unknown one stands for.
        """
        key = ".".join(str(part) for part in error["loc"])
        where = f"{self.path.name}: {key}" if key else self.path.name
        if error["type"] == "extra_forbidden":
            return Problem(where, "is not a known key", f"did you mean {meant}?" if meant else "remove it")
        if error["type"] == "missing":
            return Problem(where, "is missing", self._to_add(error["loc"]))
        what, value = error["msg"].removeprefix("Value error, "), error["input"]
        if error["type"] == "value_error" and isinstance(value, dict):  # two keys contradict each other
            return Problem(where, what, "change one of the two")
        shown = "nan" if isinstance(value, float) and math.isnan(value) else repr(value)
        return Problem(f"{where} = {shown}", what, _remedy(error))

    def _to_add(self, location: tuple[str | int, ...]) -> str:
        """What to write for a key, or a section, that is missing: as the preset has it."""
        shows = f"{self.shown_in} shows every key with a sensible value"
        value: Any = self._preset
        for part in location:
            if not isinstance(value, dict) or part not in value:
                return f"add it; {shows}"
            value = value[part]
        return f"add {location[-1]}: {_flow(value)} ({shows})"

    @cached_property
    def _preset(self) -> Any:
        """None where it is not there, or is not what it was."""
        try:
            return read_yaml(self.path.parent / self.shown_in, "")
        except (FileNotFoundError, UserError):
            return None

    def _meant(self, location: tuple[str | int, ...], missing: set[tuple[str | int, ...]]) -> str | None:
        """The key that an unknown one stands for: one that is like it, and missing."""
        name = str(location[-1])
        known = [key for key in self._siblings(location) if (*location[:-1], key) in missing]
        near = [key for key in known if key == ELSEWHERE.get(name)] or difflib.get_close_matches(name, known, n=1)
        return near[0] if near else None

    def _siblings(self, location: tuple[str | int, ...]) -> list[str]:
        """The keys that are known at the place of an unknown key."""
        model: type[BaseModel] = self.model
        for part in location[:-1]:
            annotation: Any = model.model_fields[str(part)].annotation
            model = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))  # it, or null
        return list(model.model_fields)


def _remedy(error: Any) -> str:
    """What to write instead, where that is plain."""
    kind, value = error["type"], error["input"]
    if error["loc"] == ("base",) and kind == "value_error":
        return f"xtts-finetune base fetch {quoted(value)}, which says what to write here"
    if kind == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return f"write {int(value)}"
    if kind == "date_type":
        return "write it as 2026-11-29, without quotes"
    if kind == "literal_error" and isinstance(value, str):
        known = re.findall(r"'([^']+)'", error["ctx"]["expected"])
        for near in difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.8):
            return f"did you mean {near}?"
    return "correct the value"


def _flow(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)  # which YAML reads, too
