"""What a workspace holds of its disks, part by part."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from xtts_finetune.core.disk import allocated, mount_point
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.cache import Cache

Held = dict[Path, dict[str, int]]  # by file system (where it is mounted) and part: bytes


def holdings(workspace: Workspace, dvc: Cache) -> Held:
    """What each part of a workspace holds, on each file system. A file with several names counts once."""
    held: Held = {}
    counted: set[tuple[int, int]] = set()
    disks: dict[int, Path] = {}  # by the number of the file system
    cache_folder = dvc.root.resolve()
    for part, folder in _parts(workspace, dvc):
        for parent, file in _files(folder.resolve(), cache_folder):
            if file.st_dev not in disks:
                disks[file.st_dev] = mount_point(Path(parent))
            of_disk = held.setdefault(disks[file.st_dev], {})
            of_disk.setdefault(part, 0)
            if (file.st_dev, file.st_ino) not in counted:
                counted.add((file.st_dev, file.st_ino))
                of_disk[part] += allocated(file)
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


def _files(top: Path, cache_folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below, and the folder that it lies in; without a Path of each: there may be 50,000 recordings.

    A symlink of DVC's is the file that it leads to, but of the part that has the link.
    """
    for parent, _, names in os.walk(top):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):  # a run that is under way has removed it
                found, place = os.lstat(path), parent
                target = Path(path).resolve() if stat.S_ISLNK(found.st_mode) else None
                if target and target.is_relative_to(cache_folder):
                    found, place = target.lstat(), str(target.parent)
                yield place, found
