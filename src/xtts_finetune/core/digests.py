"""SHA-256 of files that do not change: of large ones computed once for each content."""

from pathlib import Path
from typing import Any

from xtts_finetune.core.disk import is_disk_full, is_refused
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, REFERENCE

DIGESTS = "digests"  # the entry of base.json that holds `digests_of`


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of what a model speaks with beside its weights, in prepared/ or a bundle, by the path there.

    Of the reference and of all files of the base, but for base.json, which is to hold them.
    """
    files = [folder / REFERENCE, *sorted((folder / BUNDLE_BASE).iterdir())]
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files if file.name != BASE_INFO}


def sha256_once(path: Path, memory: Path) -> str:
    """SHA-256 of a file, which is read again only where its size, its time of change or its inode is another.

    Args:
        memory: a JSON file that remembers; it may be damaged or deleted at the cost of reading all again.
    """
    known, name, seen = _known(memory), str(path.resolve()), _seen(path)
    entry = known.get(name)
    if isinstance(entry, dict) and entry.get("seen") == seen and isinstance(entry.get("sha256"), str):
        return str(entry["sha256"])
    digest = sha256_file(path)
    if _seen(path) == seen:  # else it is being written
        _remember(memory, {**known, name: {"seen": seen, "sha256": digest}})
    return digest


def _seen(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _known(memory: Path) -> dict[str, Any]:
    try:
        content = read_json(memory)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(memory: Path, known: dict[str, Any]) -> None:
    """Where the disk has no room for it, or may not be written to, the file is read again next time."""
    try:
        write_json(memory, known)
    except OSError as error:
        if not (is_disk_full(error) or is_refused(error)):
            raise
