"""The checkpoint store of one phase: resumable states and the best weights, published whole or not at all.

    work/phase1/step-00000200/   model.safetensors  optimizer.safetensors  state.json  manifest.json
    work/phase1/best-00000150/   model.safetensors (the same inode as in its state)  state.json  manifest.json
    work/phase1/DONE             the phase is complete

The store knows names and bytes, not tensors: the caller writes the files of a state. A folder is filled beside its
place, checksummed, fsynced and renamed; without a manifest that holds for every file it is not a checkpoint.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, published_folder, read_json, sha256_file, write_json
from xtts_finetune.store.retention import expendable

WEIGHTS = "model.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
_NAME = re.compile(r"(step|best)-\d{8,}")
_TEMPORARY = re.compile(r"\..+\.tmp")  # of published_file and published_folder


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder of the store."""

    folder: Path
    step: int

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def state(self) -> dict[str, Any]:
        """What the caller stored beside the weights: position, metrics."""
        content: dict[str, Any] = read_json(self.folder / STATE)
        return content

    def damage(self) -> str | None:
        """What is wrong with it, by its manifest; None if every byte is as written."""
        try:
            files = read_json(self.folder / MANIFEST)["files"]
            written = {name: (file["bytes"], file["sha256"]) for name, file in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST} cannot be read: {error}"
        for name, (size, digest) in written.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size != size:
                return f"{name} is missing or cut short"
            if sha256_file(file) != digest:
                return f"{name} has changed since it was written"
        return None


class CheckpointStore:
    """The states and the best of one phase, in one folder."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for this process alone; death releases it.

        Raises:
            UserError: another trainer holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder.parent / f"{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            problem = Problem(
                str(self.folder), "another trainer is at work here", "wait for it, or stop it: pgrep -af xtts_finetune"
            )
            raise UserError("this phase is already being trained", [problem]) from None
        try:
            yield
        finally:
            lock.release()

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any], is_best: bool) -> None:
        """Publish the state of `step`, and its weights as the best if they are; then prune.

        Args:
            write: writes model.safetensors and what else resuming needs into the folder it is given.
            state: JSON values that `Checkpoint.state` gives back.
        """
        with published_folder(self._state_folder(step)) as folder:
            write(folder)
            write_json(folder / STATE, state)
            _write_manifest(folder)
        if is_best:
            self.publish_best(Checkpoint(self._state_folder(step), step))
        self.prune()

    def publish_best(self, checkpoint: Checkpoint) -> None:
        """Make the weights of `checkpoint` the best; those before are removed when they are in place."""
        previous = self._complete("best-")
        if [best.step for best in previous] == [checkpoint.step] and previous[0].damage() is None:
            return
        with published_folder(self.folder / f"best-{checkpoint.step:08d}") as folder:
            link_or_copy(checkpoint.weights, folder / WEIGHTS)
            link_or_copy(checkpoint.folder / STATE, folder / STATE)
            files = read_json(checkpoint.folder / MANIFEST)["files"]
            write_json(folder / MANIFEST, {"files": {name: files[name] for name in (WEIGHTS, STATE)}})
        for best in previous:
            if best.step != checkpoint.step:
                shutil.rmtree(best.folder)

    def states(self) -> list[Checkpoint]:
        """The complete states, oldest first; by name and manifest, without reading the weights."""
        return self._complete("step-")

    def latest(self, on_damage: Callable[[Checkpoint, str], None]) -> Checkpoint | None:
        """The newest state whose every byte verifies; `on_damage` hears of the ones passed over."""
        for checkpoint in reversed(self.states()):
            damage = checkpoint.damage()
            if damage is None:
                return checkpoint
            on_damage(checkpoint, damage)
        return None

    def best(self) -> Checkpoint | None:
        found = self._complete("best-")
        return found[-1] if found else None

    def discard_newer(self, step: int) -> None:
        """Delete the states after `step`, the one resumed from: damaged as they are, they must not count as kept."""
        for state in self.states():
            if state.step > step:
                shutil.rmtree(state.folder)

    def prune(self) -> None:
        """Delete the states that retention lets go, and what a crash left half-written or half-deleted."""
        for step in expendable([state.step for state in self.states()], self.keep_last, protected=()):
            shutil.rmtree(self._state_folder(step))
        for leftover in self.folder.iterdir():
            if _NAME.fullmatch(leftover.name) and not (leftover / MANIFEST).is_file():
                shutil.rmtree(leftover)
            elif _TEMPORARY.fullmatch(leftover.name):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def clear(self) -> None:
        """Forget everything: another run starts here."""
        shutil.rmtree(self.folder, ignore_errors=False)
        self.folder.mkdir(parents=True)

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").exists()

    def mark_done(self, summary: dict[str, Any]) -> None:
        write_json(self.folder / "DONE", summary)

    def reopen(self) -> None:
        """Take `mark_done` back: the run is to go on."""
        (self.folder / "DONE").unlink(missing_ok=True)

    @property
    def summary(self) -> dict[str, Any]:
        """What `mark_done` was given."""
        content: dict[str, Any] = read_json(self.folder / "DONE")
        return content

    def link_states(self, target: Path) -> None:
        """Give every retained state a second name under `target`, as one whole folder: no bytes are copied."""
        with published_folder(target) as folder:
            for checkpoint in self.states():
                copy = folder / checkpoint.folder.name
                copy.mkdir()
                for file in sorted(checkpoint.folder.iterdir()):
                    link_or_copy(file, copy / file.name)

    def _state_folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _complete(self, prefix: str) -> list[Checkpoint]:
        folders = [folder for folder in sorted(self.folder.glob(f"{prefix}*")) if _NAME.fullmatch(folder.name)]
        return [Checkpoint(f, int(f.name.removeprefix(prefix))) for f in folders if (f / MANIFEST).is_file()]


def _write_manifest(folder: Path) -> None:
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2, sort_keys=True), encoding="utf-8")
