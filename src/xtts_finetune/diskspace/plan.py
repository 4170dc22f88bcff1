"""What a plan to free room consists of."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from xtts_finetune.core.disk import files_below, freed_bytes
from xtts_finetune.core.layout import PhaseName
from xtts_finetune.dvcio.cache import Listing

Option = Literal["intermediates", "best_only", "archive"]
_FLAGS: dict[Option, str] = {
    "intermediates": "--intermediates",
    "best_only": "--best-only",
    "archive": "--archive REMOTE",
}


@dataclass(frozen=True)
class Request:
    """What is wanted."""

    option: Option
    force: bool = False
    history: bool = False

    @property
    def command(self) -> str:
        """What to type."""
        flags = [_FLAGS[self.option], *(["--history"] if self.history else []), *(["--force"] if self.force else [])]
        return f"xtts-finetune clean {' '.join(flags)} --yes"


@dataclass(frozen=True)
class Item:
    """Something that goes."""

    what: str
    why: str
    paths: list[Path]  # files and folders to delete
    objects: list[Path] = field(default_factory=list)  # of DVC's cache: `dvc gc` deletes them
    bytes: int = 0  # freed with it, when all of the plan goes
    again: str = ""  # what makes it again, to be typed, and how long that takes; "": nobody will miss it

    @property
    def files(self) -> list[Path]:
        """Every file of it, on both sides."""
        return [*files_below(*self.paths), *self.objects]


@dataclass(frozen=True)
class Kept:
    """Something that must not go."""

    what: str
    why: str
    bytes: int  # it holds


@dataclass(frozen=True)
class Plan:
    """What goes and what stays."""

    request: Request
    items: list[Item]
    kept: list[Kept]
    outs: dict[str, Listing]  # what dvc.lock is to name instead, by the out's path
    lost: set[PhaseName]  # whose states are gone already, though dvc.lock names them
    safe: list[str]  # objects that stay with what they list, though nothing in the workspace names them

    @property
    def bytes(self) -> int:
        """What all of it frees."""
        return sum(item.bytes for item in self.items)


def counted(items: Iterable[Item]) -> list[Item]:
    """With the bytes of each: a file of several items goes, and counts, with the last of them."""
    measured: list[Item] = []
    files: list[Path] = []
    before = 0
    for item in items:
        files += item.files
        now = freed_bytes(files)
        measured.append(replace(item, bytes=now - before))
        before = now
    return measured
