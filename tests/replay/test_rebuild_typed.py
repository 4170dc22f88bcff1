"""`clean` says what makes again what goes; as it is typed there, it does, in the processes that people start."""

import re
import shutil
import time
from pathlib import Path

import pytest
from checkouts import Checkout

from xtts_finetune.core.files import sha256_file

GOING = {"phase1": 4, "phase2": 8}  # states of the steps, that --intermediates lets go


@pytest.mark.slow
def test_what_clean_lets_go_comes_back_as_it_says(copied: Checkout) -> None:
    before = {phase: digests(copied.root / "checkpoints" / phase / name(step)) for phase, step in GOING.items()}
    said = copied.run("xtts-finetune", "clean", "--intermediates", "--yes").stdout
    told = re.findall(r"makes it again: .*xtts-finetune rebuild --step (\d+) \(at most (\d+) s\)", said)
    assert [int(step) for step, _ in told] == list(GOING.values())
    for phase, step in GOING.items():
        said = copied.run("xtts-finetune", "rebuild", "--step", str(step)).stdout
        [place] = (copied.root / "work" / "rebuilt").glob(f"{phase}.*/{name(step)}")
        assert place.relative_to(copied.root).as_posix() in said
        assert digests(place) == before[phase]
    assert "up to date" in copied.run("dvc", "status").stdout
    assert copied.leftovers() == []

    said = copied.run("xtts-finetune", "clean", "--intermediates", "--yes").stdout
    assert re.search(r"work/rebuilt/phase2\.[0-9a-f]{16}: made again once already", said)
    assert not list((copied.root / "work" / "rebuilt").iterdir())


@pytest.mark.slow
def test_stopped_half_way_nothing_is_left(copied: Checkout) -> None:
    shutil.rmtree(copied.root / "checkpoints")
    shutil.rmtree(copied.root / "work", ignore_errors=True)
    process = copied.start("xtts-finetune", "rebuild", "--step", "6")
    while not any((copied.root / "work" / "rebuilt").glob(".phase1.*.tmp/phase1/curve.jsonl")):
        assert process.poll() is None, "it ended"
        time.sleep(0.01)
    process.terminate()
    process.communicate()
    assert process.returncode == 130
    assert copied.leftovers() == []
    assert not list((copied.root / "work" / "rebuilt").iterdir())


@pytest.mark.slow  # starts three processes
def test_help_and_mistakes(finished: Checkout) -> None:
    told = " ".join(finished.run("xtts-finetune", "rebuild", "--help").stdout.split())
    assert "bit by bit the same" in told
    assert "phase2 came to step 9" in finished.run("xtts-finetune", "rebuild", "--step", "10", code=2).stderr
    assert "Missing option '--step'" in finished.run("xtts-finetune", "rebuild", code=2).stderr


def name(step: int) -> str:
    return f"step-{step:08d}"


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir()}
