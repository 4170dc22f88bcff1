"""Runs moved aside: another run takes their place in work/, and they come back when their parameters do."""

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import Identity, Record
from xtts_finetune.checkpoints.lock import is_trained, locked
from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.files import fsync_path, read_json, sha256_file
from xtts_finetune.core.layout import DONE, PHASES, STATE, PhaseName, Workspace, checkpoint_step, parked_key

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)  # the last of int(Infinity)


@dataclass(frozen=True)
class Parked:
    """A run that was moved aside."""

    phase: PhaseName
    key: str
    folder: Path
    step: int  # of its newest state; 0 where the folder is damaged
    best_mel_ce: float | None
    params: dict[str, Any]  # the settings that shape its weights, e.g. train_phase1.lr
    bytes: int  # on disk
    goes_on: bool  # when its parameters come back; else no state is left to go on from, only its best weights


def parked(workspace: Workspace) -> list[Parked]:
    """Every parked run, by phase and key."""
    return [described(folder, phase, key) for phase in PHASES for folder, key in _folders(workspace, phase)]


def described(folder: Path, phase: PhaseName, key: str) -> Parked:
    """A run by what lies in its folder, however damaged."""
    contents = list(_contents(folder))
    record = next(_records(contents), None)
    positions = list(_positions(contents))
    finite = [mel_ce for _, mel_ce in positions if math.isfinite(mel_ce)]
    return Parked(
        phase=phase,
        key=key,
        folder=folder,
        step=max((step for step, _ in positions), default=0),
        best_mel_ce=min(finite, default=None),
        params=shaping(record),
        bytes=held_bytes(files_below(folder)),
        goes_on=_has_state(folder) or summary_of(folder) is not None,
    )


def shaping(record: Record | None) -> dict[str, Any]:
    """The settings that shape a run's weights, e.g. train_phase1.lr; none of a folder that nothing can be read of."""
    settings = record.identity.trajectory if record else {}
    return {name: value for name, value in settings.items() if name.startswith("train_")}


def _has_state(folder: Path) -> bool:
    return any(checkpoint_step(path.name, "step") is not None for path in folder.iterdir())


def record_of(folder: Path) -> Record | None:
    """What the run in `folder` says of itself; None where nothing there can be read."""
    return next(_records(_contents(folder)), None)


def continues(folder: Path, identity: Identity) -> bool:
    """Whether what lies in `folder` is the run `identity`, or can go on as it.

    An unfinished run goes on under newer code. A done one of older code is not passed off as the newer one's.
    """
    record = record_of(folder)
    if record is None or not identity.has_trajectory_of(record.identity):
        return False
    return record.code == identity.code or summary_of(folder) is None


def park(workspace: Workspace, phase: PhaseName, key: str) -> Path:
    """Move work/<phase>/ aside; returns where it is now."""
    folder = free_place(workspace, phase, key)
    _rename(workspace.work(phase), folder)
    return folder


def free_place(workspace: Workspace, phase: PhaseName, key: str) -> Path:
    """Where a run would be parked: where one of its key is already, with a number."""
    folder, number = workspace.parked_work(phase, key), 1
    while folder.exists():
        number += 1
        folder = workspace.parked_work(phase, f"{key}-{number}")
    return folder


def parked_run_for(workspace: Workspace, identity: Identity) -> Parked | None:
    """The parked run that `identity` can go on with.

    Of several it is the one of this very code, or the one that has come furthest.
    """
    ours = [each for each in parked(workspace) if each.phase == identity.phase and each.goes_on]
    candidates = [each for each in ours if continues(each.folder, identity)]
    return max(candidates, key=lambda each: (each.key == identity.key, each.step), default=None)


def unpark(workspace: Workspace, identity: Identity) -> Path | None:
    """Bring the run that `parked_run_for` finds back into work/, which must be empty or not be there.

    Returns where it was parked; None if there is none.
    """
    chosen = parked_run_for(workspace, identity)
    if chosen is None:
        return None
    work = workspace.work(identity.phase)
    if work.exists():
        work.rmdir()  # only POSIX lets a folder be renamed over an empty one
    with locked(chosen.folder) if chosen.folder == workspace.queue.work(identity.phase) else nullcontext():
        _rename(chosen.folder, work)
    return chosen.folder


def _folders(workspace: Workspace, phase: PhaseName) -> Iterator[tuple[Path, str]]:
    for folder in sorted(workspace.parked_work(phase, "").parent.glob(f"{phase}.*")):
        key = parked_key(folder.name, phase)
        if key is not None and folder.is_dir():
            yield folder, key
    left = workspace.queue.work(phase)  # by an experiment that was stopped
    record = None if workspace.is_copy or is_trained(left) else record_of(left)
    if record is not None:
        yield left, record.identity.key


def _contents(folder: Path) -> Iterator[dict[str, Any]]:
    """What its DONE, its states from the newest on and its bests say, as far as it can be read."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    states = [name for name in names if checkpoint_step(name, "step") is not None]
    bests = [name for name in names if checkpoint_step(name, "best") is not None]
    for file in (DONE, *(f"{name}/{STATE}" for name in (*reversed(states), *reversed(bests)))):
        try:
            content = read_json(folder / file)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and not _is_damaged(folder / file):
            yield content


def _is_damaged(file: Path) -> bool:
    """Whether the manifest beside it says other bytes: with a bit flipped, JSON may tell of another run."""
    try:
        written = Checkpoint(file.parent, 0).manifest[file.name]["sha256"]
    except _UNREADABLE:
        return False
    return bool(sha256_file(file) != written)


def _records(contents: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> Iterator[Record]:
    for content in contents:
        try:
            yield Record.from_json(content)
        except _UNREADABLE:
            continue


def _positions(contents: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """Step and best Mel CE so far."""
    for content in contents:
        try:
            if "figures" in content:
                yield int(content["figures"]["last_step"]), float(content["figures"]["eval"]["mel_ce"])
            else:
                yield int(content["position"]["step"]), float(content["position"]["best_mel_ce"])
        except _UNREADABLE:
            continue


def _rename(source: Path, target: Path) -> None:
    os.rename(source, target)
    fsync_path(target.parent)
