"""Damaged, missing and foreign files, a clock that jumped: what is lost is made again, or refused in plain words."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import Checkout
from damage import empty, flip_in_the_middle, halve
from small_runs import DONE, FAULT_TESTS, PHASE1, PHASE2, RESUMABLE, USER, Before, Reference, Small, some
from test_interruption import assert_as_if_never_stopped

pytestmark = FAULT_TESTS
FILES = ("model.safetensors", "optimizer.safetensors", "curve-00000000.jsonl", "state.json", "manifest.json")


@pytest.fixture(scope="module")
def stopped(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Phase 1 stopped between its two evaluations, with two states; its best is that of the first. Copy it."""
    small = before[PHASE1].copy(tmp_path_factory.mktemp("stopped") / "small")
    event = 0
    while not (steps := small.states("phase1")) or steps[-1] not in (4, 5):
        event += 20
        shutil.rmtree(small.root / "work", ignore_errors=True)
        assert small.start(*PHASE1, at={event: "SIGTERM"}).wait() == RESUMABLE
    return small


@pytest.fixture
def small(stopped: Small, tmp_path: Path) -> Small:
    return stopped.copy(tmp_path / "small")


def work(small: Small) -> Path:
    return small.root / "work" / "phase1"


DAMAGE: tuple[Callable[[Path], None], ...] = (flip_in_the_middle, halve, empty, Path.unlink)


def test_damage_to_any_file_of_the_newest_state(stopped: Small, reference: Reference, tmp_path: Path) -> None:
    for name, damage in some([(name, damage) for name in FILES for damage in DAMAGE], 6):
        small = stopped.copy(tmp_path / "small")
        older, newest = small.states("phase1")
        damage(work(small) / f"step-{newest:08d}" / name)
        assert f"resuming phase1 after step {older}\n" in small.run(*PHASE1), (name, damage)
        reference.check_stage(small, PHASE1)
        small.remove()


def test_damage_to_every_state_is_the_users_to_decide(small: Small, reference: Reference) -> None:
    """The best weights are whole: they are not thrown away without a word."""
    for step in small.states("phase1"):
        flip_in_the_middle(work(small) / f"step-{step:08d}" / "optimizer.safetensors")
    said = small.run(*PHASE1, code=USER)
    assert "no state can be resumed from, but the best weights, of step 3, are whole" in said
    assert f"remedy: copy {work(small)}/best-00000003/model.safetensors" in said
    assert "Traceback" not in said
    assert (work(small) / "best-00000003" / "manifest.json").exists()
    shutil.rmtree(work(small))
    small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


def test_damage_to_what_a_phase_starts_from(before: Before, reference: Reference, tmp_path: Path) -> None:
    """Phase 2 is not trained from other weights than phase 1's best without saying so; nor is phase 1 lost."""
    small = before[PHASE2].copy(tmp_path / "small")
    small.start(*PHASE2, at={150: "SIGTERM"}).wait()
    held = small.states("phase2")
    base = small.root / "prepared" / "base" / "gpt.safetensors"
    flip_in_the_middle(base)
    shutil.rmtree(small.root / "work" / "phase1")
    said = small.run(*PHASE1, code=USER)
    assert "is not the file that prepare saw" in said
    assert "Traceback" not in said
    assert small.states("phase2") == held


def test_damage_to_the_warm_start(before: Before, tmp_path: Path) -> None:
    small = before[PHASE2].copy(tmp_path / "small")
    weights = small.root / "models" / "phase1" / "model.safetensors"
    flip_in_the_middle(weights)
    said = small.run(*PHASE2, code=USER)
    assert f"{weights}\n      is not what phase1 exported" in said
    assert small.states("phase2") == []


@pytest.mark.parametrize("name", ["step-00000006", "best-00000006"])
@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "link", "dangling link"])
def test_something_else_in_the_place_of_a_state(small: Small, reference: Reference, name: str, kind: str) -> None:
    place = work(small) / name
    elsewhere = small.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    if kind == "file":
        place.write_text("a shopping list")
    elif kind == "link":
        place.symlink_to(elsewhere)
    elif kind == "dangling link":
        place.symlink_to(small.root / "nowhere")
    else:
        place.mkdir()
        if kind == "folder":
            (place / "model.safetensors").write_text("half")
    small.run(*PHASE1)
    reference.check_stage(small, PHASE1)
    assert (elsewhere / "mine").exists()


def test_foreign_files_are_left_alone(small: Small, reference: Reference) -> None:
    foreign = [work(small) / "notes.txt", work(small) / "step-6.bak", small.root / "work" / "mine" / "a"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    small.run(*PHASE1)
    reference.check_stage(small, PHASE1)
    assert all(path.read_text() == "mine" for path in foreign)


@pytest.mark.parametrize(
    "place", ["work", "work/phase1", "checkpoints", "models", "models/phase1", "reports", "mlruns"]
)
def test_a_file_where_a_folder_belongs(small: Small, reference: Reference, place: str) -> None:
    """It is named, and nothing is lost: with the folder back it goes on."""
    path, kept = small.root / place, small.root / "kept"
    if path.exists():
        path.rename(kept)
    path.parent.mkdir(exist_ok=True)
    path.write_text("a shopping list")
    fork = small.start_without_deleting(*PHASE1)
    code = fork.wait()
    assert "Traceback" not in fork.said
    if code != DONE:
        assert code == USER, fork.said
        assert str(path) in fork.said or f" {place}" in fork.said
        path.unlink()
        if kept.exists():
            kept.rename(path)
        small.run(*PHASE1)
    reference.check_phase(small, "phase1")


@pytest.mark.parametrize("seconds", [4_000_000_000, 0], ids=["2096", "1970"])
def test_a_clock_that_jumped(small: Small, reference: Reference, seconds: int) -> None:
    for path in small.root.rglob("*"):
        os.utime(path, (seconds, seconds), follow_symlinks=False)
    newest = small.states("phase1")[-1]
    assert f"resuming phase1 after step {newest}\n" in small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


def test_a_reader_who_leaves(untrained: Checkout, finished: Checkout) -> None:
    """`dvc repro | head`: the pipe breaks under dvc and under the trainer."""
    process = untrained.start("bash", "-c", "dvc repro train_phase1 2>&1 | head -n 1")
    process.communicate()
    untrained.repro("train_phase1")
    assert_as_if_never_stopped(untrained, finished)
