"""The checkpoint store of one phase: resumable states and the best weights, published whole or not at all.

The store knows names and bytes, not tensors: the caller writes the files of a state. A folder is filled beside its
place, fsynced, read back from the disk and renamed; without a manifest that holds for every file it is no checkpoint.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from xtts_finetune.checkpoints.checkpoint import Checkpoint, Contents, prove, publish_checkpoint
from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.checkpoints.retention import Rule, Stored, best_of, best_weights, latest_best, newest, retain, stored
from xtts_finetune.core.disk import Reserve, files_below, free_bytes, full_disk_raises
from xtts_finetune.core.errors import DiskFull
from xtts_finetune.core.files import (
    discard,
    leftovers_in,
    link_or_copy,
    link_tree,
    published_folder,
    temporary_for,
    write_json,
)
from xtts_finetune.core.layout import (
    DONE,
    MANIFEST,
    STATE,
    WEIGHTS,
    CheckpointKind,
    checkpoint_name,
    is_checkpoint_name,
    reserve_of,
)
from xtts_finetune.core.removal import remove

_BESIDE = 256 * 1024  # bytes: a best's folder and JSON files, and what curve and MLflow write in the same moment
T = TypeVar("T")


class CheckpointStore(CheckpointReader):
    """The states and the best of one phase, in one folder, as the trainer that holds its lock sees them."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        super().__init__(folder)
        self.keep_last = keep_last
        self.reserve = Reserve(reserve_of(folder))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the store for this process alone; death releases it (`checkpoints.lock.locked`)."""
        return locked(self.folder)

    def save(self, step: int, contents: Contents, is_best: bool) -> bool:
        """Publish the state of `step`, and its weights as the best if they are; then prune.

        Returns:
            Whether the state was published. Where it has no room, even after `make_room`, it is left out; the weights
            of a best still fit, in place of the reserve.

        Raises:
            DiskFull: the best has no room, either. What was published before is as it was.
            NotAsWritten: the disk does not hold what is written to it. Likewise.
        """
        state = Checkpoint(self._place("step", step), step)
        saved = self._publish_state(state, contents)
        if is_best:
            self.with_room(lambda: self.publish_best(state) if saved else self._publish_best_alone(step, contents))
        self.prune()
        self._hold_reserve()
        return saved

    def with_room(self, write: Callable[[], T]) -> T:
        """What `write` returns; on a full disk it is called again, when all the room there is was made.

        Raises:
            DiskFull: it does not fit.
        """
        try:
            with full_disk_raises():
                return write()
        except DiskFull:
            self.make_room()
        with full_disk_raises():
            return write()

    def make_room(self) -> None:
        """Keep only what a run cannot do without: its best, and the newest state that verifies."""
        self.reserve.release()
        self._keep_one_state()

    def _keep_one_state(self) -> None:
        self._retain(newest(1, holds=lambda state: Checkpoint(self.folder / state.name, state.step).damage() is None))

    def publish_best(self, checkpoint: Checkpoint) -> None:
        """Make the weights of `checkpoint`, or their EMA, the best.

        Those before go when no state is left that counts on them.
        """
        place, weights = Checkpoint(self._place("best", checkpoint.step), checkpoint.step), checkpoint.best_file
        written = checkpoint.manifest
        # in a replay it may be another: under newer code, say, the weights may be better than their average
        if not place.folder.exists() or place.damage() or place.manifest[WEIGHTS] != written[weights.name]:
            with published_folder(place.folder) as folder:
                link_or_copy(weights, folder / WEIGHTS)
                link_or_copy(checkpoint.folder / STATE, folder / STATE)
                files = {WEIGHTS: written[weights.name], STATE: written[STATE]}
                write_json(folder / MANIFEST, {"files": files})
                if not (folder / WEIGHTS).samefile(weights):
                    prove(folder)
        self._prune_bests()

    def keep_best(self, step: int) -> None:
        """Delete all best weights but those of `step`, which the run is done with or cannot have room beside.

        Goes with them what a kill left of one that was being deleted.
        """
        self._retain_bests(best_of(step))
        self.discard_leftovers()

    def discard_newer(self, step: int) -> None:
        """Delete the states after `step`, the one resumed from: damaged as they are, they must not count as kept.

        Goes with them what a crash left half-written or half-deleted.
        """
        self._delete([state.step for state in self.states() if state.step > step])
        self.discard_leftovers()

    def discard_leftovers(self) -> None:
        """Delete what a crash left half-written or half-deleted.

        Whoever holds the lock is the only one to write checkpoints. Other files have other writers: the delivery to
        MLflow, on another thread or in another process.
        """
        for path in list(self.folder.iterdir()):
            if is_checkpoint_name(path.name) and not (path / MANIFEST).is_file():
                discard(path)
            elif is_checkpoint_name(temporary_for(path) or ""):
                remove(path)
        for leftover in leftovers_in(self.folder):
            remove(leftover)

    def prune(self) -> None:
        """Delete the states that retention lets go, and what a crash left half-written or half-deleted."""
        self._retain(newest(self.keep_last))

    def mark_done(self, summary: dict[str, Any]) -> None:
        """Record that the phase is complete. It needs no reserve from here on."""
        self.with_room(lambda: write_json(self.folder / DONE, summary))
        self.reserve.release()

    def reopen(self) -> None:
        """Take `mark_done` back: the run is to go on."""
        remove(self.folder / DONE)

    def link_to(self, target: Path) -> None:
        """Give all that the store holds a second name under `target`, as one whole folder: no bytes are copied."""
        names = [checkpoint.folder.name for checkpoint in (*self.states(), *self.bests())]
        with published_folder(target) as folder:
            for name in names:
                link_tree(self.folder / name, folder / name)
            link_or_copy(self.folder / DONE, folder / DONE)

    def _publish_state(self, state: Checkpoint, contents: Contents) -> bool:
        """Whether it was published. Where it is sure not to fit, nothing is written."""
        if not self._is_room_for(contents.size):
            return False
        try:
            self.with_room(lambda: publish_checkpoint(state.folder, contents))
        except DiskFull:  # a quota, or others who write
            return False
        return True

    def _is_room_for(self, size: int) -> bool:
        """Whether so many bytes are free; for them goes what a run can do without, and the reserve is given up."""
        if free_bytes(self.folder) + self.reserve.held < size:
            self._keep_one_state()
        if free_bytes(self.folder) < size <= free_bytes(self.folder) + self.reserve.held:
            self.reserve.release()  # only for a save that will fit: somebody else may take it
        return free_bytes(self.folder) >= size

    def _publish_best_alone(self, step: int, contents: Contents) -> None:
        """Make the weights the best without a state to share them with."""
        alone = replace(
            contents, write_weights=contents.write_best or contents.write_weights, write_rest=lambda folder: None
        )
        publish_checkpoint(self._place("best", step), alone)
        self._prune_bests()

    def _hold_reserve(self) -> None:
        """Room for the weights of the next best. Without it they may still fit, and a DiskFull says if not."""
        weights = [checkpoint.weights for checkpoint in (*self.states(), *self.bests()) if checkpoint.weights.is_file()]
        if not weights:
            return
        size = weights[-1].stat().st_size + _BESIDE
        if not self.reserve.hold(size) and len(self.bests()) > 1:
            # Room for the next is worth more than an earlier one, on which only older states count: the newest counts
            # on the latest best, or is replayed up to it.
            self.keep_best(self.bests()[-1].step)
            self.reserve.hold(size)

    def _place(self, kind: CheckpointKind, step: int) -> Path:
        return self.folder / checkpoint_name(kind, step)

    def _delete(self, steps: list[int]) -> None:
        for step in steps:
            discard(self._place("step", step))

    def _stored(self) -> list[Stored]:
        return stored(file.relative_to(self.folder).as_posix() for file in files_below(self.folder))

    def _retain(self, states: Rule[Stored]) -> None:
        for going in retain(self._stored(), states, best_weights).delete:
            discard(self.folder / going.name)
        self._prune_bests()
        self.discard_leftovers()

    def _prune_bests(self) -> None:
        """Delete the best weights that later ones have replaced, and on which no state counts."""
        states = self.states()
        newest_state = states[-1].step if states else -1
        self._retain_bests(latest_best(newest_state, {_best_step_of(state) for state in states}))

    def _retain_bests(self, rule: Rule[Stored]) -> None:
        for going in retain([each for each in self._stored() if each.is_best and each.is_whole], rule).delete:
            discard(self.folder / going.name)


def _best_step_of(state: Checkpoint) -> int | None:
    """The step of the best weights when it was saved; None where it does not say."""
    try:
        return int(state.state["position"]["best_step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
