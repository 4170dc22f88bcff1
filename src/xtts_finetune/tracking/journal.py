"""What happened in a workspace, and when: stages that began, went on, stopped or ended, and the room on the disk then.

A line a happening in work/journal.jsonl. Nothing depends on it: where it cannot be written, it lacks one.
"""

import json
import time
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from xtts_finetune.core.disk import free_bytes
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import PHASES, Workspace

# started: a run, from its beginning; planned: with which step its epochs end, written behind both
Kind = Literal["began", "started", "resumed", "planned", "stopped", "ended", "saved"]
BEGUN = ("started", "resumed", "planned")
_MOST = 4_000  # lines that are kept
_THINNED = 100  # saves of a phase that are told


class Happening(BaseModel):
    """Of a stage."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Kind
    stage: str
    time: float  # seconds since 1970
    step: int | None = None  # of training
    epochs: int | None = None  # with which a planned run ends
    target_mel_ce: float | None = None  # at which it ends
    free_bytes: int | None = None
    why: str = ""

    @classmethod
    def now(cls, workspace: Workspace, kind: Kind, stage: str, step: int | None = None, why: str = "") -> Self:
        """With what is free."""
        free = free_bytes(workspace.work(PHASES[0]))
        return cls(kind=kind, stage=stage, time=time.time(), step=step, free_bytes=free, why=why)


def saves(stage: str, rows: Iterable[dict[str, Any]]) -> list[Happening]:
    """What the disk had free at saves, by the rows of a phase's curve: a hundred at the most."""
    seen = [row for row in rows if "disk/free_bytes" in row and "time" in row]
    every = max(1, -(-len(seen) // _THINNED))
    return [
        Happening(
            kind="saved",
            stage=stage,
            time=row["time"] / 1000,
            step=row["step"],
            free_bytes=int(row["disk/free_bytes"]),
        )
        for row in seen[::every]
    ]


def remember_saves(workspace: Workspace, stage: str, rows: Iterable[dict[str, Any]]) -> None:
    """Of a phase that is done: its curve goes with its folder in work/."""
    write_down(workspace, *saves(stage, rows))


def journal(workspace: Workspace) -> list[Happening]:
    """All of it, in the order of time; lines that a kill cut short are left out, and all where it cannot be read."""
    return sorted(_lines(workspace), key=lambda each: each.time)


def latest(workspace: Workspace, stage: str, kinds: Collection[Kind] = get_args(Kind)) -> Happening | None:
    """What was written down last of a stage, of these kinds; not by its time, as clocks are set back."""
    return next((each for each in reversed(_lines(workspace)) if each.stage == stage and each.kind in kinds), None)


def resumed_at(workspace: Workspace, stage: str) -> Happening | None:
    """When, and with which step, the run that is under way went on; None: it did not, or has ended, or begun since."""
    last = latest(workspace, stage, ("resumed", "started", "ended"))
    return last if last and last.kind == "resumed" else None


def planned(workspace: Workspace, stage: str, is_over: bool = False) -> Happening | None:
    """With which step its epochs end, of the run that is under way, as its trainer said; None: it said nothing.

    Args:
        is_over: of the run that has ended last.
    """
    last = latest(workspace, stage, ("planned", "started") if is_over else ("planned", "started", "ended"))
    return last if last and last.kind == "planned" else None


def _lines(workspace: Workspace) -> tuple[Happening, ...]:
    try:
        return _parsed(workspace.journal.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # there is none, or nobody may read it
        return ()


@lru_cache(maxsize=2)
def _parsed(text: str) -> tuple[Happening, ...]:
    """Remembered by content, as a report asks it some times for each phase."""
    found = []
    for line in text.splitlines():
        try:
            found.append(Happening.model_validate_json(line))
        except ValidationError:
            continue
    return tuple(found)


def write_down(workspace: Workspace, *new: Happening) -> None:
    """Add to the journal."""
    text = "".join(json.dumps(each.model_dump(exclude_defaults=True)) + "\n" for each in new)
    try:
        workspace.journal.parent.mkdir(parents=True, exist_ok=True)
        is_cut_short = workspace.journal.exists() and workspace.journal.read_bytes()[-1:] not in (b"", b"\n")
        with workspace.journal.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{text}" if is_cut_short else text)
        lines = workspace.journal.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if len(lines) > 2 * _MOST:
            write_text(workspace.journal, "".join(lines[-_MOST:]))
    except OSError:  # full, read-only, or no folder: what the stage itself writes there says so
        return
