"""`xtts-finetune clean` beside training, on a full disk, killed, and over many runs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tracked
from checkouts import Checkout, killed_on_failure
from cleaning import (
    KEPT_STATE,
    assert_nothing_to_do,
    assert_registry_is_whole,
    clean,
    detached,
    digests,
    promised,
    size,
    states,
)
from once import made_once
from small_disks import small_disk
from standstill import stop_all
from test_interruption import assert_as_if_never_stopped, train_to_step_2, wait_until

from xtts_finetune.core.layout import PHASES

pytestmark = pytest.mark.slow


def forget_one_recording(checkout: Checkout) -> tuple[Path, bytes]:
    """data/ loses a clip, and DVC is told; the clip."""
    checkout.commit()
    clip = sorted((checkout.root / "data" / "wavs").glob("*.ogg"))[0]
    content = clip.read_bytes()
    clip.unlink()
    checkout.run("dvc", "add", "--quiet", "data")
    return clip, content


def bring_recordings_back(checkout: Checkout) -> None:
    checkout.run("git", "checkout", "--quiet", "data.dvc")
    checkout.run("dvc", "checkout", "data")


# Beside training.


@pytest.fixture(scope="module")
def killed_once(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Phase 1 was killed when its second state was saved."""

    def make(root: Path) -> None:
        checkout = finished.copy(root / "checkout")
        checkout.forget_training()
        process = checkout.start("dvc", "repro", "train_phase1")
        with killed_on_failure(process):
            wait_until((checkout.root / "work/phase1/step-00000004/manifest.json").exists, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    return Checkout(made_once(tmp_path_factory, "killed", make) / "checkout")


@pytest.fixture
def killed(killed_once: Checkout, tmp_path: Path) -> Checkout:
    return killed_once.copy(tmp_path / "checkout")


def test_the_resume_point_stays_and_training_goes_on_from_it(killed: Checkout, finished: Checkout) -> None:
    newest = states(killed, "phase1", "work")[-1]
    assert len(states(killed, "phase1", "work")) > 1
    said = clean(killed, "--best-only", "--yes")
    assert f"work/phase1/{newest}" in said
    assert "the unfinished phase resumes here" in said
    assert states(killed, "phase1", "work") == [newest]
    assert f"resuming phase1 after step {int(newest[5:])}\n" in killed.repro("train_phase1")
    for path in ("models/phase1", "reports/train_phase1.json", "reports/curve_phase1.csv"):
        assert killed.lock()["train_phase1"][path]["md5"] == finished.lock()["train_phase1"][path]["md5"]


def test_by_force_the_resume_point_goes_and_the_phase_starts_over(killed: Checkout, finished: Checkout) -> None:
    """Though there are best weights, of a later step than the first."""
    assert max(path.name for path in (killed.root / "work/phase1").glob("best-*")) > "best-00000000"
    assert "the phase will start over" in clean(killed, "--best-only", "--force", "--yes")
    assert not (killed.root / "work/phase1").exists()
    assert "resuming" not in killed.repro("train_phase1")
    for path, item in finished.lock()["train_phase1"].items():
        assert killed.lock()["train_phase1"][path]["md5"] == item["md5"], path


def test_what_a_live_trainer_holds_stays(untrained: Checkout, finished: Checkout) -> None:
    trainer = train_to_step_2(untrained, "python", "-m", "xtts_finetune.stages", "train", "phase1")
    with killed_on_failure(trainer):
        stop_all(trainer.pid)
        held = untrained.files("work/phase1")
        assert "a trainer is at work here" in clean(untrained, "--best-only", "--force", "--yes")
        assert untrained.files("work/phase1") == held
        os.killpg(trainer.pid, signal.SIGCONT)
        trainer.communicate()
    assert trainer.returncode == 0
    untrained.repro("train_phase1")
    assert_as_if_never_stopped(untrained, finished)


def test_while_dvc_runs_a_stage_it_refuses(untrained: Checkout) -> None:
    process = train_to_step_2(untrained, "dvc", "repro", "train_phase1")
    try:
        stop_all(process.pid)
        before = untrained.files("work/phase1", ".dvc/cache")
        said = clean(untrained, "--best-only", "--force", "--yes", code=2)
        assert "error: not now: a stage, or another command of DVC, is running here\n" in said
        assert "busy" in said
        assert untrained.files("work/phase1", ".dvc/cache") == before
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# Over many runs.


@pytest.fixture
def own_two(two_runs: Checkout, tmp_path: Path) -> Checkout:
    """Two runs, of which nothing names the earlier one; the files have no names elsewhere."""
    checkout = detached(two_runs, tmp_path / "checkout")
    checkout.run("git", "reset", "--quiet", "HEAD~1")
    return checkout


def test_dvc_gc_takes_every_state_of_earlier_runs_and_nothing_else(own_two: Checkout, finished: Checkout) -> None:
    """The claim of the design: the workspace is the current run, the cache is history, the registry has the best."""
    own, earlier = own_two, digests(finished, "checkpoints/phase2")
    held = size(own)
    kept = digests(own, "checkpoints", "models", "prepared", "data", "reports", "mlruns/artifacts")
    own.run("dvc", "gc", "--workspace", "--force")
    freed = held - size(own)
    print(f"two runs hold {held:,} bytes; dvc gc -w frees {freed:,}")
    assert freed > 2 * 62e6  # the optimisers of two states; weights may be registered
    assert digests(own, "checkpoints", "models", "prepared", "data", "reports", "mlruns/artifacts") == kept
    stored = {hash_ for name, hash_ in earlier.items() if "optimizer" in name}
    assert stored and stored & set(digests(own, ".dvc/cache").values()) == set()
    assert_nothing_to_do(own)
    assert tracked.aliases(own)["champion"] == 1


def test_clean_frees_what_earlier_runs_left_behind(own_two: Checkout) -> None:
    own = own_two
    held, planned = size(own), promised(clean(own, "--intermediates"))
    clean(own, "--intermediates", "--yes")
    assert held - size(own) == pytest.approx(planned, rel=0.01)
    assert planned > 188e6 + 2 * 62e6  # beside an older state a phase, those of the run before
    assert_nothing_to_do(own)


# On a full disk, and killed.


@pytest.mark.parametrize("option", ["--intermediates", "--archive"])
def test_it_works_on_a_full_disk(finished: Checkout, tmp_path: Path, option: str) -> None:
    """0 bytes free: DVC has no room for its database, its lock files or a listing; deleting states frees none."""
    (tmp_path / "tapes").mkdir()
    chosen = [option, "tapes"] if option == "--archive" else [option]
    with small_disk(tmp_path / "disk", 1_000_000_000) as disk:
        deep = disk.root / ("the voices of my whole family, one folder for each of them " * 4).strip()
        deep.mkdir()
        full = detached(finished, deep / "checkout")  # DVC's list of locks names each of its paths in full
        full.run("dvc", "remote", "add", "tapes", str(tmp_path / "tapes"))
        filler = disk.fill()
        assert disk.free == 0
        with pytest.raises(AssertionError, match=r"disk I/O error|disk is full|No space left"):
            full.run("dvc", "gc", "--workspace", "--force")
        planned = promised(clean(full, *chosen))
        clean(full, *chosen, "--yes")
        assert disk.free == pytest.approx(planned, rel=0.01)
        for phase in PHASES:
            assert states(full, phase) == ([KEPT_STATE[phase]] if option == "--intermediates" else [])
        filler.unlink()
        assert_nothing_to_do(full)
        assert_registry_is_whole(full, finished)


MOMENTS: dict[str, Callable[[Checkout], bool]] = {
    "states are being deleted": lambda here: (
        not (here.root / "checkpoints/phase1/step-00000004/manifest.json").exists()
    ),
    "dvc.lock was written": lambda here: here.lock()["train_phase1"]["checkpoints/phase1"]["nfiles"] == 0,
    "dvc gc is at work": lambda here: (here.root / ".kept-by-clean" / "kept.dvc").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_goes_on(own: Checkout, moment: str) -> None:
    clip, content = forget_one_recording(own)
    models = digests(own, "models")
    process = own.start("xtts-finetune", "clean", "--best-only", "--yes")
    with killed_on_failure(process):
        wait_until(lambda: MOMENTS[moment](own), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert "commit dvc.lock" in clean(own, "--best-only", "--yes")
    assert own.files("checkpoints") == []
    assert not (own.root / ".kept-by-clean").exists()
    assert "nothing to free" in clean(own, "--best-only")
    bring_recordings_back(own)
    assert clip.read_bytes() == content
    assert digests(own, "models") == models
    assert_nothing_to_do(own)
