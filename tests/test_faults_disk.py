"""A disk that fills up at any write of any stage: it goes on or stops in order, and then ends in the same bytes.

On real small file systems. A budget is what a stage finds free: the disk then ends in the middle of some file. Filled
before a change, it ends exactly there, whatever was written before.
"""

import random
import subprocess
import time
from pathlib import Path

import pytest
from checkouts import Checkout
from small_disks import SmallDisk, read_only, small_disk
from small_runs import (
    DONE,
    EVALUATE,
    FAULT_TESTS,
    KILLED,
    PHASE1,
    RESUMABLE,
    SEED,
    STAGES,
    USER,
    Before,
    Fork,
    Reference,
    Small,
    Stage,
    some,
)

from xtts_finetune.core.commands import as_typed

pytestmark = FAULT_TESTS
PAGE = 4096
WEIGHTS, OPTIMIZER = 2_781_460, 5_565_392  # bytes, of the tiny model
ENOUGH = 200_000_000
STARTED = "phase1.lock#1"  # a phase is past its preflight, and its page has its room
SECOND_SAVE = "step-00000001#1"  # it has begun
LATER = "/curve.jsonl#12"  # some steps after it, whose saves had no room
PLENTY = 3_000_000_000  # for a whole checkout; only what is used takes memory


def ends_in_order(small: Small, reference: Reference, stage: Stage, said: str, code: int) -> None:
    """What a stage that met a full disk says and leaves."""
    assert "Traceback" not in said
    reference.check_folders(small)
    left = small.leftovers()
    if code == USER:  # it was full before the stage began, which looks before it opens MLflow's database:
        # whoever does rolls back what a killed process had begun there
        assert left in ([], ["mlflow.db-journal"])
        assert f"error: {stage[-1]} does not fit on the disk" in said
        return
    assert left == []
    assert code in (DONE, RESUMABLE), f"exit code {code}: {said}"
    stopped = small.root / "work" / "stopped.txt"
    if code == DONE:
        assert not stopped.exists()
        return
    page = stopped.read_text(encoding="utf-8")
    assert "the disk is full" in page
    assert as_typed("type dvc repro: it resumes there") in page
    assert "xtts-finetune clean --intermediates --yes" in page
    if stage != EVALUATE and not (small.root / "work" / stage[1] / "DONE").exists():
        states = small.states(stage[1])
        point = f"the state of step {states[-1]}, where it resumes" if states else "no state: it starts over"
        assert f"{stage[1]}: {point}" in page or not (small.root / "work" / stage[1]).exists()


def finishes(small: Small, reference: Reference, stage: Stage, code: int) -> None:
    if code != DONE:
        small.run(*stage)
    reference.check_stage(small, stage)


@pytest.mark.parametrize("stage", STAGES, ids=" ".join)
def test_filled_before_each_change(before: Before, reference: Reference, stage: Stage, tmp_path: Path) -> None:
    """To the last byte, or with a page or the weights left."""
    whole = before[stage].copy(tmp_path / "whole")
    whole.run(*stage)
    stops = 0
    for event in some(range(1, whole.events + 1), 7, stage):
        leave = random.Random(event).choice([0, 0, PAGE, WEIGHTS + PAGE])
        with small_disk(tmp_path / "disk", ENOUGH) as disk:
            small = before[stage].copy(disk.root / "small")
            fork = small.start(*stage, at={event: f"fill {leave}"})
            code = fork.wait()
            (disk.root / "filler").unlink(missing_ok=True)
            ends_in_order(small, reference, stage, fork.said, code)
            finishes(small, reference, stage, code)
            stops += code == RESUMABLE
        (tmp_path / "disk").rmdir()
    print(f"{' '.join(stage)}: {stops} stops")


def budgets() -> list[int]:
    """Bytes: a page below, at and above every sum of files that a phase may come to hold, and some by chance."""
    state = WEIGHTS + OPTIMIZER
    sums = [n * state + part for n in range(4) for part in (0, WEIGHTS, OPTIMIZER, 2 * WEIGHTS)]
    close = [total + pages * PAGE for total in sums for pages in range(-1, 16)]
    chance = [random.Random(SEED).randrange(3 * state) for _ in range(len(close) // 4)]
    return sorted({max(0, budget) for budget in (*close, *chance)})


def test_every_budget(before: Before, reference: Reference, tmp_path: Path) -> None:
    """Found free by a phase that has begun: one that begins asks first (tests/diskspace/test_preflight.py)."""
    stops = skips = 0
    for budget in some(budgets(), 14):
        with small_disk(tmp_path / "disk", ENOUGH) as disk:
            small = before[PHASE1].copy(disk.root / "small")
            fork = small.start(*PHASE1, at={STARTED: f"fill {budget}"})
            code = fork.wait()
            (disk.root / "filler").unlink()
            ends_in_order(small, reference, PHASE1, fork.said, code)
            assert fork.said.count("disk full: the state of step") <= 1
            skips += "disk full: the state of step" in fork.said
            finishes(small, reference, PHASE1, code)
            stops += code == RESUMABLE
        (tmp_path / "disk").rmdir()
    print(f"{stops} stops, {skips} with states left out")
    assert stops
    assert skips


def test_room_that_comes_back_during_the_run(before: Before, reference: Reference, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", ENOUGH) as disk:
        small = before[PHASE1].copy(disk.root / "small")
        said = small.run(*PHASE1, at={SECOND_SAVE: f"fill {PAGE}", LATER: "free"})
        assert said.count("disk full: the state of step") == 1
        assert small.states("phase1")[-1] == 6
        skipped = small.points("phase1")["disk/saves_skipped"]
        assert 0 < skipped[-1][1] < 6
        reference.check_stage(small, PHASE1)


@pytest.mark.parametrize("moment", ["curve.jsonl#1", "phase1.holder#1"])
def test_filled_while_it_resumes(before: Before, reference: Reference, moment: str, tmp_path: Path) -> None:
    """It makes room for the little that it takes to begin, as for a save: what it holds for the best, older states."""
    with small_disk(tmp_path / "disk", ENOUGH) as disk:
        small = before[PHASE1].copy(disk.root / "small")
        assert small.start(*PHASE1, at={"step-00000003#1": "SIGTERM"}).wait() == RESUMABLE
        assert len(small.states("phase1")) == 2
        small.run(*PHASE1, at={moment: "fill 0"})
        reference.check_stage(small, PHASE1)


def test_killed_on_a_full_disk(before: Before, reference: Reference, tmp_path: Path) -> None:
    for event in some(range(50, 130, 2), 4):
        with small_disk(tmp_path / "disk", ENOUGH) as disk:
            small = before[PHASE1].copy(disk.root / "small")
            code = small.start(*PHASE1, at={SECOND_SAVE: "fill 0", event: "SIGKILL"}).wait()
            assert code in (KILLED, RESUMABLE)
            reference.check_folders(small)
            fork = small.start(*PHASE1)  # still full
            code = fork.wait()
            ends_in_order(small, reference, PHASE1, fork.said, code)
            (disk.root / "filler").unlink(missing_ok=True)  # it came too early
            finishes(small, reference, PHASE1, code)
        (tmp_path / "disk").rmdir()


def test_its_log_on_the_full_disk(before: Before, reference: Reference, tmp_path: Path) -> None:
    """`dvc repro > log`"""
    with small_disk(tmp_path / "disk", ENOUGH) as disk:
        small = before[PHASE1].copy(disk.root / "small")
        fork = small.start(*PHASE1, at={SECOND_SAVE: "fill 0", LATER: "free"}, log=disk.root / "log")
        assert fork.wait() == DONE, fork.said
        reference.check_stage(small, PHASE1)


def refused_in_words(fork: Fork, place: Path) -> None:
    assert fork.wait() == USER, fork.said
    assert "error: a file cannot be written" in fork.said
    assert place.name in fork.said
    assert as_typed("see whether its disk is mounted read-only; then dvc repro goes on") in fork.said
    assert "Traceback" not in fork.said


@pytest.mark.parametrize("stage", STAGES, ids=" ".join)
def test_a_disk_that_is_read_only(before: Before, reference: Reference, stage: Stage, tmp_path: Path) -> None:
    small = before[stage].copy(tmp_path / "small")
    held = sorted(small.root.rglob("*"))
    with read_only(small.root):
        refused_in_words(small.start_without_deleting(*stage), small.root)
    assert sorted(small.root.rglob("*")) == held
    small.run(*stage)
    reference.check_stage(small, stage)


@pytest.mark.parametrize("place", ["work", "work/phase1", "checkpoints", "models", "reports", "mlruns"])
def test_a_folder_that_is_read_only(before: Before, reference: Reference, place: str, tmp_path: Path) -> None:
    small = before[PHASE1].copy(tmp_path / "small")
    (small.root / place).mkdir(parents=True, exist_ok=True)
    with read_only(small.root / place):
        refused_in_words(small.start_without_deleting(*PHASE1), small.root / place)
    small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


def test_a_folder_that_becomes_read_only(before: Before, reference: Reference, tmp_path: Path) -> None:
    """As a disk with errors does, in the middle of a phase."""
    small = before[PHASE1].copy(tmp_path / "small")
    work = small.root / "work" / "phase1"
    fork = small.start(*PHASE1)
    while not (work / "step-00000002" / "manifest.json").exists():
        time.sleep(0.001)
    with read_only(work):
        refused_in_words(fork, work)
        reference.check_folders(small)
    assert small.states("phase1")[-1] < 6, "it came too late to show anything"
    assert "resuming phase1 after step" in small.run(*PHASE1)
    reference.check_stage(small, PHASE1)


def test_prepare_on_a_disk_that_is_too_small(studio: Checkout, tmp_path: Path) -> None:
    size = sum(file.stat().st_size for file in (studio.root / "prepared").rglob("*") if file.is_file())
    with small_disk(tmp_path / "disk", PLENTY) as disk:
        checkout = studio.copy(disk.root / "checkout")
        subprocess.run(["rm", "-r", str(checkout.root / "prepared")], check=True)
        filler = disk.fill(leave=size // 2)
        said = checkout.stage("prepare", code=USER).stderr
        assert "error: prepare does not fit on the disk" in said
        assert "Traceback" not in said
        assert not (checkout.root / "prepared").exists()
        filler.unlink()
        process = checkout.start("python", "-m", "xtts_finetune.stages", "prepare")
        while not list(checkout.root.glob(".prepared.*.tmp")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        filler = fill_now(disk)
        _, said = process.communicate()
        assert process.returncode == RESUMABLE, said
        assert "Traceback" not in said
        assert "the disk is full" in (checkout.root / "reports" / "status.md").read_text()
        assert not (checkout.root / "prepared").exists()
        assert checkout.leftovers() == []
        filler.unlink()
        checkout.stage("prepare")
        assert checkout.run("dvc", "status", "prepare").stdout.count("changed outs") == 0


def test_dvc_meets_the_full_disk(untrained: Checkout, finished: Checkout, tmp_path: Path) -> None:
    """When it takes over what a stage made, there is no room: the next `dvc repro` does not train again."""
    with small_disk(tmp_path / "disk", PLENTY) as disk:
        checkout = untrained.copy(disk.root / "checkout")
        process = checkout.start("dvc", "repro", "train_phase1")
        while not (checkout.root / "reports" / "train_phase1.json").exists():
            assert process.poll() is None, process.communicate()
        filler = fill_now(disk)
        process.communicate()
        filler.unlink()
        said = checkout.repro("train_phase1")
        assert "step/s" not in said
        for path, item in finished.lock()["train_phase1"].items():
            assert checkout.lock()["train_phase1"][path]["md5"] == item["md5"], path


def fill_now(disk: SmallDisk) -> Path:
    """While others write."""
    for _ in range(100):
        try:
            return disk.fill()
        except OSError:
            continue
    raise AssertionError("the disk does not keep still")
