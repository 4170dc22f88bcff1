"""The store on a file system that is full: what it gives up, what it never does, and what it says."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import half
from making.done_runs import summary
from small_disks import SmallDisk, small_disk

from xtts_finetune.checkpoints.checkpoint import Checkpoint, Contents
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import DiskFull
from xtts_finetune.core.layout import WEIGHTS

PART = 1_000_000  # bytes of the weights; the optimiser has twice as many, as Adam's moments
STATE = 3 * PART
SMALL = 100_000  # for manifests and folders


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 40 * PART) as disk:
        yield disk


@pytest.fixture
def store(disk: SmallDisk) -> CheckpointStore:
    store = CheckpointStore(disk.root / "work" / "phase1", keep_last=1)
    store.folder.mkdir(parents=True)
    return store


def save(
    store: CheckpointStore, step: int, is_best: bool = False, attempts: int | None = None, size: int = STATE
) -> bool:
    def write(name: str, size: int) -> None:
        with (written[-1] / name).open("wb") as file:
            file.write(bytes([step % 256]) * size)

    written: list[Path] = []

    def write_weights(folder: Path) -> None:
        written.append(folder)
        write(WEIGHTS, PART)

    contents = Contents(write_weights, lambda folder: write("optimizer.safetensors", 2 * PART), size, {"step": step})
    saved = store.save(step, contents, is_best)
    assert attempts in (None, len(written))
    return saved


def whole(store: CheckpointStore) -> tuple[list[int], int]:
    """Steps of the states and of the best, all of which verify; nothing half-written lies beside them."""
    best = store.best()
    assert best is not None
    checkpoints: list[Checkpoint] = [*store.states(), best]
    assert [checkpoint.damage() for checkpoint in checkpoints] == [None] * len(checkpoints)
    assert list(store.folder.glob(".*")) == []
    return [state.step for state in store.states()], best.step


def test_the_reserve_holds_room_for_the_weights(store: CheckpointStore, disk: SmallDisk) -> None:
    assert store.reserve.held == 0
    save(store, 0, is_best=True)
    held = store.reserve.held
    assert PART < held < 1.3 * PART
    before = disk.free
    store.reserve.release()
    assert disk.free == pytest.approx(before + held, abs=SMALL)


def test_the_reserve_never_adds_to_the_peak(store: CheckpointStore, disk: SmallDisk) -> None:
    """While a state is written the weights have the reserve's place: two states and the best's weights fit."""
    save(store, 0, is_best=True)
    save(store, 2)
    filler = disk.fill(leave=STATE - store.reserve.held + SMALL)  # with the reserve: a state
    assert save(store, 4, attempts=1)
    assert whole(store) == ([4], 0)
    assert store.reserve.held > PART
    filler.unlink()


def test_older_states_make_room(store: CheckpointStore, disk: SmallDisk) -> None:
    store.keep_last = 2
    for step in (0, 2, 4):
        save(store, step, is_best=step == 0)
    disk.fill(leave=SMALL)
    assert save(store, 6), "the state of step 2 went early"
    assert whole(store) == ([4, 6], 0)


def test_older_states_go_only_for_one_that_verifies(store: CheckpointStore, disk: SmallDisk) -> None:
    store.keep_last = 2
    for step in (0, 2, 4):
        save(store, step, is_best=step == 0)
    weights = store.states()[-1].weights
    weights.write_bytes(b"rot" + weights.read_bytes()[3:])
    disk.fill(leave=SMALL)
    assert save(store, 6)
    assert [state.step for state in store.states()] == [2, 6], "2 is whole, 4 is not"


def test_what_a_kill_left_makes_room(store: CheckpointStore, disk: SmallDisk) -> None:
    save(store, 0, is_best=True)
    left = half(store.folder / "step-00000002")
    left.mkdir()
    (left / WEIGHTS).write_bytes(bytes(STATE))
    disk.fill(leave=SMALL)
    assert save(store, 2)
    assert whole(store) == ([2], 0)


def test_without_room_a_state_is_left_out_and_the_rest_stays(store: CheckpointStore, disk: SmallDisk) -> None:
    save(store, 0, is_best=True)
    save(store, 2)
    filler = disk.fill(leave=SMALL)
    assert not save(store, 4)
    assert whole(store) == ([2], 0)
    assert store.reserve.held > PART, "it is held again: the best that comes must fit"
    assert not save(store, 6)
    filler.unlink()
    assert save(store, 8), "and saving goes on when there is room"
    assert whole(store) == ([8], 0)


def test_while_it_stays_full_a_save_costs_nothing(
    store: CheckpointStore, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a write up to the last byte nor a look at all bytes of what is there."""
    save(store, 0, is_best=True)
    save(store, 2)
    filler = disk.fill(leave=SMALL)
    held = store.reserve.path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr("xtts_finetune.checkpoints.checkpoint.sha256_file", lambda path: pytest.fail(str(path)))
        assert not save(store, 4, attempts=0)
        assert not save(store, 6, attempts=0)
    assert store.reserve.path.stat().st_ino == held, "never given up: somebody else might have taken its room"
    filler.unlink()
    assert save(store, 8, attempts=1)
    assert whole(store) == ([8], 0)


def test_a_quota_that_free_space_does_not_show(
    store: CheckpointStore, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 0, is_best=True)
    filler = disk.fill(leave=SMALL)
    monkeypatch.setattr("xtts_finetune.checkpoints.store.free_bytes", lambda path: 10 * STATE)
    assert not save(store, 2, attempts=2), "tried, and once more when room was made"
    assert whole(store) == ([0], 0)
    filler.unlink()
    assert save(store, 4, attempts=1)


@pytest.mark.parametrize("leave", [0, SMALL])
def test_the_weights_of_a_best_always_fit(store: CheckpointStore, disk: SmallDisk, leave: int) -> None:
    save(store, 0, is_best=True)
    save(store, 2)
    disk.fill(leave)
    assert not save(store, 4, is_best=True)
    assert whole(store) == ([2], 4)
    best = store.best()
    assert best is not None
    assert best.weights.read_bytes() == bytes([4]) * PART
    assert not save(store, 6, is_best=True), "the old best made room for the reserve, and that for the new one"
    assert whole(store) == ([2], 6)


def test_if_not_even_they_fit_all_stays_as_it_was(store: CheckpointStore, disk: SmallDisk) -> None:
    save(store, 0, is_best=True)
    save(store, 2)
    store.reserve.release()  # as if someone had deleted it
    disk.fill()
    with pytest.raises(DiskFull):
        save(store, 4, is_best=True)
    assert whole(store) == ([2], 0)


@pytest.mark.parametrize("size", [STATE, 0], ids=["known", "quota"])
@pytest.mark.parametrize("room", range(0, STATE + 9 * 4096, 97 * 4096))
def test_wherever_the_room_ends(store: CheckpointStore, disk: SmallDisk, room: int, size: int) -> None:
    """Saved, left out or refused: what is there verifies, and the best is never the older one without need."""
    save(store, 0, is_best=True)
    save(store, 2)
    store.reserve.release()
    disk.fill(leave=room)
    try:
        saved = save(store, 4, is_best=True, size=size)
    except DiskFull:
        assert whole(store) == ([2], 0)
    else:
        assert whole(store) == ([4 if saved else 2], 4)


def test_marking_the_end_takes_the_reserve(store: CheckpointStore, disk: SmallDisk) -> None:
    save(store, 0, is_best=True)
    disk.fill()
    content = {**summary(), "curve": "a row\n" * 1000}
    store.mark_done(content)
    assert store.summary == content
    assert store.reserve.held == 0


def test_the_lock_holds_on_a_full_disk(store: CheckpointStore, disk: SmallDisk) -> None:
    disk.fill()
    with store.locked():
        assert os.listdir(store.folder) == []


def test_without_any_weights_there_is_nothing_to_hold_room_for(store: CheckpointStore, disk: SmallDisk) -> None:
    """The first evaluation gave NaN, so there is no best, and the disk had no room for a state."""
    filler = disk.fill(leave=SMALL)
    assert not save(store, 0)
    assert (store.states(), store.best(), store.reserve.held) == ([], None, 0)
    filler.unlink()
    assert save(store, 2)
    assert store.reserve.held > PART
    (store.folder / "step-00000002" / WEIGHTS).unlink()
    disk.fill(leave=SMALL)
    assert not save(store, 4)
