"""DONE, by which a phase is complete: what is remembered of it."""

from pathlib import Path
from typing import Any

from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import DONE

_FIGURES = {"step", "last_step", "stopped"}  # those of them that it takes to publish the phase, or to go on with it


def summary_of(work: Path) -> dict[str, Any] | None:
    """The figures and the curve of the complete phase whose folder this is; None: it is not complete.

    A DONE that cannot be read, or lacks them, is none: the last state says the same again.
    """
    try:
        content: dict[str, Any] = read_json(work / DONE)
        is_whole = content["figures"].keys() >= _FIGURES and isinstance(content["curve"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if is_whole else None
