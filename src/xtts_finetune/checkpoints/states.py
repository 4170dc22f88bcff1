"""Which states of a phase are not needed to resume from the newest one."""

from collections.abc import Iterable
from pathlib import Path

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.core.files import read_json, sha256_file
from xtts_finetune.core.layout import MANIFEST, MODEL_CARD, WEIGHTS, checkpoint_step, is_checkpoint_name


def dispensable(folder: Path, verify: bool) -> tuple[list[Path], Path | None]:
    """The states in `folder` that can go, and the one to resume from.

    Folders without a manifest are no states, and go. A state goes only for the sake of one that holds: by every byte
    of it where `verify`, else by the sizes of its files. Where none holds, all stay.
    """
    found = sorted(path for path in folder.iterdir() if is_checkpoint_name(path.name))
    broken = [path for path in found if not (path / MANIFEST).is_file()]
    whole = [path for path in found if checkpoint_step(path.name, "step") is not None and path not in broken]
    check = _verifies if verify and len(whole) > 1 else _has_its_sizes
    newest = next((path for path in reversed(whole) if check(path)), None)
    return [*broken, *(path for path in whole if newest and path != newest)], newest


def dispensable_of(listing: Iterable[str]) -> set[str]:
    """The same by a listing of paths, for states whose files are in DVC's cache alone."""
    paths = set(listing)
    names = sorted({path.split("/")[0] for path in paths if "/" in path})
    whole = [name for name in names if checkpoint_step(name, "step") is not None and f"{name}/{MANIFEST}" in paths]
    return set(whole[:-1])


def is_whole_model(model: Path, verify: bool) -> bool:
    """Whether an exported model's weights are there; where `verify`, whether they are what its card says."""
    try:
        digest = read_json(model / MODEL_CARD)["sha256"]
        return (model / WEIGHTS).is_file() and (not verify or sha256_file(model / WEIGHTS) == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _verifies(state: Path) -> bool:
    return Checkpoint(state, 0).damage() is None


def _has_its_sizes(state: Path) -> bool:
    try:
        files = read_json(state / MANIFEST)["files"]
        return all((state / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
