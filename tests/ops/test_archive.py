"""`xtts-finetune clean --archive`: states go to a DVC remote and come back."""

from pathlib import Path

import pytest
from checkouts import Checkout
from cleaning import assert_nothing_to_do, clean, digests, promised, size, states
from damage import replace_flipped

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.layout import PHASES

pytestmark = pytest.mark.slow


@pytest.fixture
def tapes(own: Checkout, tmp_path: Path) -> Path:
    """The folder of a DVC remote of that name."""
    folder = tmp_path / "tapes"
    folder.mkdir()
    own.run("dvc", "remote", "add", "tapes", str(folder))
    return folder


def test_states_go_there_and_come_back(own: Checkout, tapes: Path) -> None:
    before, kept = digests(own, "checkpoints"), digests(own, "models", "prepared", "reports", "mlruns/artifacts")
    held = size(own)
    plan = clean(own, "--archive", "tapes")
    assert str(tapes) in plan
    assert "the remote is on the disk that this is to free" in plan
    assert as_typed("do it: xtts-finetune clean --archive tapes --yes") in plan
    assert list(tapes.iterdir()) == []
    said = clean(own, "--archive", "tapes", "--yes")
    assert "every byte as it was; checkpoints-archive.json says how to get it back" in said
    assert held - size(own) == pytest.approx(promised(plan), rel=0.01)
    assert own.files("checkpoints") == []
    assert "?? checkpoints-archive.json" in own.run("git", "status", "--porcelain").stdout
    assert_nothing_to_do(own)

    assert "checkpoints/phase1: 188 MB from tapes" in clean(own, "--archive", "tapes", "--restore")
    assert own.files("checkpoints") == []
    clean(own, "--archive", "tapes", "--restore", "--yes")
    assert digests(own, "checkpoints") == before
    for phase in PHASES:
        for state in states(own, phase):
            assert Checkpoint(own.root / "checkpoints" / phase / state, 0).damage() is None
    assert digests(own, "models", "prepared", "reports", "mlruns/artifacts") == kept
    assert size(own) == pytest.approx(held, rel=0.01)
    assert_nothing_to_do(own)


@pytest.mark.parametrize("harm", ["a flipped bit", "a lost file"])
def test_what_did_not_arrive_is_not_dropped_here(own: Checkout, tapes: Path, harm: str) -> None:
    """DVC believes that all of a folder is there when its listing is, and pushes nothing again."""
    before = digests(own, "checkpoints", ".dvc/cache")
    own.run("dvc", "push", "--quiet", "--remote", "tapes", "checkpoints/phase2")
    largest = max((path for path in tapes.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[7] ^= 1
    largest.unlink()
    if harm == "a flipped bit":
        largest.write_bytes(content)
        said = clean(own, "--archive", "tapes", "--yes", code=2)
        assert largest.name in said
        assert "nothing was dropped here" in said
        assert digests(own, "checkpoints", ".dvc/cache") == before
        assert not (own.root / "checkpoints-archive.json").exists()
        largest.unlink()
    clean(own, "--archive", "tapes", "--yes")  # pushes it again
    clean(own, "--archive", "tapes", "--restore", "--yes")
    assert digests(own, "checkpoints") == {n: d for n, d in before.items() if n.startswith("checkpoints/")}


def test_what_comes_back_damaged_leaves_all_as_it_was(own: Checkout, tapes: Path) -> None:
    clean(own, "--archive", "tapes", "--yes")
    lock = (own.root / "dvc.lock").read_bytes()
    largest = max((path for path in tapes.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    replace_flipped(largest, at=7)
    clean(own, "--archive", "tapes", "--restore", "--yes", code=2)
    assert (own.root / "dvc.lock").read_bytes() == lock
    assert_nothing_to_do(own)
    clean(own, "--best-only", "--yes")


def test_another_runs_states_are_not_restored(own: Checkout, tapes: Path) -> None:
    clean(own, "--archive", "tapes", "--yes")
    for phase in PHASES:
        card = own.root / "models" / phase / "model.json"
        card.unlink()
        card.write_text("{}", encoding="utf-8")
        own.run("dvc", "commit", "--force", f"train_{phase}")
    said = clean(own, "--archive", "tapes", "--restore", "--yes", code=2)
    assert "models/phase1 is of another run than what was archived" in said
    assert own.files("checkpoints") == []


def test_a_remote_that_is_not_known_or_not_mounted_is_refused(own: Checkout, tapes: Path) -> None:
    said = clean(own, "--archive", "attic", "--yes", code=2)
    assert f"tapes ({tapes})" in said
    assert "dvc remote add attic" in said
    tapes.rmdir()
    said = clean(own, "--archive", "tapes", "--yes", code=2)
    assert "mount its disk" in said
    assert not tapes.exists()
