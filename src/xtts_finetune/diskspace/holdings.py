"""What a workspace holds of its disks, part by part."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from xtts_finetune.core.disk import file_system, files_below, held_bytes, mount_point
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.cache import Cache

Held = dict[Path, dict[str, int]]  # by file system (where it is mounted) and part: bytes


def holdings(workspace: Workspace, dvc: Cache) -> Held:
    """What each part of a workspace holds, on each file system. A file with several names counts once."""
    held: Held = {}
    counted: set[tuple[int, int]] = set()
    for part, folder in _parts(workspace, dvc):
        files = (_within(dvc.root, file) for file in files_below(folder.resolve()))
        for disk, group in _by_disk(files).items():
            held.setdefault(disk, {})[part] = held_bytes(group, counted)
    return held


def _parts(workspace: Workspace, cache: Cache) -> list[tuple[str, Path]]:
    """A file with several names counts under the first of these that has it: what is kept longest comes first."""
    return [
        ("data/", workspace.data),
        ("base/", workspace.base),
        ("prepared/", workspace.prepared),
        ("models/", workspace.model("phase1").parent),
        ("mlruns/", workspace.tracking_db.parent),
        ("checkpoints/", workspace.checkpoints("phase1").parent),
        ("work/", workspace.work("phase1").parent),
        ("reports/", workspace.reports),
        ("DVC's cache, for earlier runs", cache.root),
    ]


def _within(cache_folder: Path, file: Path) -> Path:
    """The file itself, where DVC has put a symlink to it; it is of the part that has the link."""
    target = file.resolve() if file.is_symlink() else file
    return target if target.is_relative_to(cache_folder.resolve()) else file


def _by_disk(files: Iterable[Path]) -> dict[Path, list[Path]]:
    disk_of = cache(file_system)  # by folder
    groups: dict[int, list[Path]] = {}
    for file in files:
        groups.setdefault(disk_of(file.parent), []).append(file)
    return {mount_point(group[0].parent): group for group in groups.values()}
