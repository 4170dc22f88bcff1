"""What stays of a phase's folder when its older states go."""

from collections.abc import Iterable
from pathlib import Path

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.retention import Stored, Verdict, best_weights, newest, retain, stored
from xtts_finetune.core.disk import files_below
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import MANIFEST


def thinned(folder: Path, verify: bool) -> Verdict[Stored]:
    """Of a phase's folder: the best, and the newest state that holds, by every byte of it or by its files' sizes."""
    check = _verifies if verify else _has_its_sizes
    listing = [file.relative_to(folder).as_posix() for file in files_below(folder)]
    return retain(stored(listing), newest(1, lambda state: check(folder / state.name)), best_weights)


def names(folders: Iterable[Stored]) -> list[str]:
    return [each.name for each in folders]


def _verifies(state: Path) -> bool:
    return Checkpoint(state, 0).damage() is None


def _has_its_sizes(state: Path) -> bool:
    try:
        files = read_json(state / MANIFEST)["files"]
        return all((state / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
