"""A checkpoint: a folder that is whole, by its manifest, or none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import forget_cached, fsync_path, published_folder, read_json, sha256_file, write_json
from xtts_finetune.core.layout import EMA, MANIFEST, STATE, WEIGHTS


@dataclass(frozen=True)
class Contents:
    """What a state is made of. The writers fill the folder they are given, on whichever thread saves."""

    write_weights: Callable[[Path], None]  # model.safetensors, and nothing else
    write_rest: Callable[[Path], None]  # what resuming needs beside it
    size: int  # bytes of all these files, but for headers and the like
    state: dict[str, Any]  # JSON values that `Checkpoint.state` gives back
    write_best: Callable[[Path], None] | None = None  # model.safetensors alone, of a best that is not `write_weights`'


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder of the store."""

    folder: Path
    step: int

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def best_file(self) -> Path:
        """Its weights; of a state that is the best by their EMA, that."""
        position = self.state.get("position", {})
        is_ema = (position.get("best_step"), position.get("best_weights")) == (self.step, "ema")
        return self.folder / (EMA if is_ema and EMA in self.manifest else WEIGHTS)

    @property
    def state(self) -> dict[str, Any]:
        """What the caller stored beside the weights: position, metrics."""
        content: dict[str, Any] = read_json(self.folder / STATE)
        return content

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """Of every file its `bytes` and `sha256`."""
        files: dict[str, dict[str, Any]] = read_json(self.folder / MANIFEST)["files"]
        return files

    def damage(self) -> str | None:
        """What is wrong with it, by its manifest; None if every byte is as written."""
        try:
            written = {name: (file["bytes"], file["sha256"]) for name, file in self.manifest.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST} cannot be read: {error}"
        for name, (size, digest) in written.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size != size:
                return f"{name} is missing or cut short"
            if sha256_file(file) != digest:
                return f"{name} has changed since it was written"
        return None


class NotAsWritten(UserError):
    """The disk gives back other bytes than were written."""


def publish_checkpoint(place: Path, contents: Contents) -> None:
    """Write a checkpoint's files, and the manifest that vouches for them; it has its name when all were read back.

    Raises:
        NotAsWritten: the disk does not hold what is written to it, at the second try, either.
    """
    try:
        _publish(place, contents)
    except NotAsWritten:
        _publish(place, contents)


def _publish(place: Path, contents: Contents) -> None:
    with published_folder(place) as folder:
        contents.write_weights(folder)
        contents.write_rest(folder)
        write_json(folder / STATE, contents.state)
        files = {  # read from memory, where it was just written
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in sorted(folder.iterdir())
        }
        write_json(folder / MANIFEST, {"files": files})
        prove(folder)


def prove(folder: Path) -> None:
    """Force a checkpoint to the disk and read it back from there, where the system lets go of its copy in memory.

    Raises:
        NotAsWritten: by its manifest.
    """
    for file in sorted(folder.iterdir()):
        fsync_path(file)
        forget_cached(file)
    damage = Checkpoint(folder, 0).damage()
    if damage:
        remedy = "look at the health of this disk (smartctl, dmesg); then dvc repro resumes from the state before"
        raise NotAsWritten(
            "the disk does not hold what is written to it", [Problem(str(folder.parent), damage, remedy)]
        )
