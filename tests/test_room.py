"""The disk as the user meets it: a phase that is refused or fits on a small one, `xtts-finetune disk`, `status`."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import Checkout
from small_disks import SmallDisk, small_disk

from xtts_finetune.core.commands import as_typed

SMALL_THINGS = 100_000_000  # bytes that a phase leaves free for reports and databases
CLOSE = 3_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 1_200_000_000) as disk:
        yield disk


@pytest.fixture
def tight(untrained: Checkout, disk: SmallDisk) -> Checkout:
    """A checkout in which only `prepare` was run, on a small disk, with an earlier run in DVC's cache."""
    checkout = Checkout(disk.root / "checkout")
    subprocess.run(["cp", "-a", untrained.root, checkout.root], check=True)
    return checkout


def states_of_phase1(checkout: Checkout) -> int:
    """Bytes: two states kept, one being written, the best weights; a parameter has 4 and Adam's two moments 8."""
    parameters: int = checkout.json("prepared/base/base.json")["gpt"]["parameters"]
    return (2 + 1) * 12 * parameters + 4 * parameters


def rows(said: str) -> dict[str, str]:
    """What aligned lines say: their label → their last column."""
    lines = re.findall(r"^ +(\S.*?)(?: {2,}\d+ × .*?)? {2,}(-?[\d.]+ [kMGT]?B)$", said, re.MULTILINE)
    return dict(lines)


# Before a phase starts.


def test_a_phase_that_does_not_fit_is_refused_before_anything_slow_or_written(tight: Checkout, disk: SmallDisk) -> None:
    disk.fill(leave=states_of_phase1(tight) + SMALL_THINGS - CLOSE)
    before = tight.files(".")
    stage = ("python", "-m", "xtts_finetune.stages", "train", "phase1")
    refused = tight.run("env", "PYTHONPROFILEIMPORTTIME=1", *stage, code=2)
    said = "\n".join(line for line in refused.stderr.splitlines() if not line.startswith("import time:"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in refused.stderr.splitlines()}
    assert loaded & {"torch", "TTS", "mlflow"} == set()
    assert said.startswith(f"error: phase1 does not fit on the disk\n  {disk.root}\n")
    assert "Traceback" not in said
    page = (tight.root / "work" / "status.reserve").stat().st_size  # is held by now
    assert in_bytes(rows(said)["missing"]) == pytest.approx(CLOSE + page, rel=0.01)
    assert re.search(r"xtts-finetune clean --best-only --yes +frees [\d.]+ MB", said)
    assert tight.files(".") == [*before, "work/status.reserve"], "the page's room is held from here on"


@pytest.mark.slow
def test_with_little_more_room_it_runs_and_takes_no_more_than_planned(tight: Checkout, disk: SmallDisk) -> None:
    states = states_of_phase1(tight)
    planned = states + SMALL_THINGS
    disk.fill(leave=planned + CLOSE)
    before = lowest = disk.free
    process = tight.start("dvc", "repro", "train_phase1")
    while process.poll() is None:
        lowest = min(lowest, disk.free)
        time.sleep(0.002)
    assert process.returncode == 0, process.communicate()
    assert 0.6 * states < before - lowest < planned
    assert len(list((tight.root / "checkpoints" / "phase1").glob("step-*"))) == 2


# `xtts-finetune disk`.


def shown_disk(checkout: Checkout) -> str:
    return checkout.run("xtts-finetune", "disk").stdout


def allocated(checkout: Checkout, *folders: str) -> int:
    """Bytes on disk, as `du` counts them."""
    stats = [os.lstat(checkout.root / name) for name in checkout.files(*folders)]
    return sum({stat.st_ino: stat.st_blocks * 512 for stat in stats}.values())


def in_bytes(size: str) -> float:
    number, unit = size.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]


def test_before_anything_ran_it_says_what_it_cannot_know(fresh: Checkout) -> None:
    said = shown_disk(fresh)
    assert re.match(r"/\S*: [\d.]+ [MGT]B free\n", said)
    unknown = as_typed("what it needs is not known before prepare has opened the base (dvc repro prepare)")
    assert [f"{phase}: {unknown}" in said for phase in ("phase1", "phase2")] == [True, True]
    assert said.endswith("nothing can go\n")
    assert fresh.files(".") == ["params.yaml"]


def test_every_byte_of_a_finished_workspace_counts_once(finished: Checkout) -> None:
    parts = rows(shown_disk(finished))
    folders = ("data", "base", "prepared", "models", "mlruns", "checkpoints", "work", "reports", ".dvc/cache")
    everything = allocated(finished, *folders)
    assert in_bytes(parts["together"]) == pytest.approx(everything, rel=0.01)
    shares = [in_bytes(size) for part, size in parts.items() if part.endswith("/") or part.startswith("DVC's")]
    assert sum(shares) == pytest.approx(everything, rel=0.01)
    weights = 4 * finished.json("prepared/base/base.json")["gpt"]["parameters"]
    assert in_bytes(parts["models/"]) == pytest.approx(2 * weights, rel=0.02)
    # The last state's weights are the best's or not, its moments are there in any case; one model is registered.
    assert 4 * 2 * weights <= in_bytes(parts["checkpoints/"]) <= 4 * 3.02 * weights
    assert in_bytes(parts["mlruns/"]) < weights / 2


def test_on_a_finished_workspace_no_phase_needs_anything(finished: Checkout) -> None:
    said = shown_disk(finished)
    assert "no phase is left to be trained" in said
    assert re.search(
        r"^ +\S*xtts-finetune clean --best-only --yes +[\d.]+ [kM]B$", said, re.MULTILINE
    )  # copies share its files


def test_the_phases_to_come_are_shown_with_their_sums(untrained: Checkout) -> None:
    said = shown_disk(untrained)
    first, second = re.split(r"^phase2, after phase1: fits on /.*\n", said, flags=re.MULTILINE)
    planned = states_of_phase1(untrained) + SMALL_THINGS
    assert re.search(r"^phase1: fits on /", first, re.MULTILINE)
    assert in_bytes(rows(first)["needed at the peak"]) == pytest.approx(planned, rel=0.01)
    assert "states of phase1" in rows(second)
    left = rows(second)["states of phase1"], rows(second)["best of phase1"]
    assert in_bytes(rows(second)["needed at the peak"]) == pytest.approx(planned + sum(map(in_bytes, left)), rel=0.02)


def test_two_disks_are_told_apart(untrained: Checkout, disk: SmallDisk) -> None:
    """The cache on another disk, too small for what a phase adds to it."""
    cache = disk.root / "cache"
    shutil.copytree(untrained.root / ".dvc" / "cache", cache)
    shutil.rmtree(untrained.root / ".dvc" / "cache")
    (untrained.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    disk.fill(leave=10_000_000)
    said = shown_disk(untrained)
    ours, theirs = said.split(f"{disk.root}: 10 MB free\n")
    assert "DVC's cache" not in ours
    assert "DVC's cache, for earlier runs" in theirs.split("\n\n")[0]
    assert "somebody's film" not in said
    assert f"phase1: does not fit on {disk.root}\n" in theirs
    assert re.search(r"^phase1: fits on ", theirs, re.MULTILINE)
    refused = untrained.stage("train", "phase1", code=2).stderr
    assert f"  {disk.root}\n" in refused
    assert refused.count("remedy: ") == 1


def test_symlinks_into_the_cache_count_for_who_has_them(copied: Checkout, disk: SmallDisk) -> None:
    """As DVC leaves them where its cache is on another disk."""
    model = copied.root / "models" / "phase2" / "model.safetensors"
    cache = disk.root / "cache"
    cache.mkdir()
    weights = shutil.move(model, cache / "weights")
    model.symlink_to(weights)
    (copied.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    _, theirs = shown_disk(copied).split(f"{disk.root}: ")
    parts = rows(theirs.split("\n\n")[0])
    assert in_bytes(parts["models/"]) == pytest.approx(os.stat(weights).st_size, rel=0.01)
    assert "DVC's cache, for earlier runs" not in parts


def test_dvcs_configuration_must_be_readable(untrained: Checkout) -> None:
    (untrained.root / ".dvc" / "config.local").write_text("[cache\n")
    said = untrained.run("xtts-finetune", "disk", code=2).stderr
    assert said.startswith("error: DVC's configuration cannot be used\n")
    assert "config.local" in said
    assert "Traceback" not in said


# `xtts-finetune status`.


def disk_line(checkout: Checkout) -> str:
    [line] = [line for line in checkout.run("xtts-finetune", "status").stdout.splitlines() if line.startswith("disk ")]
    return line


def test_status_says_whether_the_next_phase_fits(untrained: Checkout, finished: Checkout) -> None:
    assert re.fullmatch(r"disk {7}[\d.]+ [MGT]B free", disk_line(finished))
    assert re.fullmatch(r"disk {7}[\d.]+ [MGT]B free; phase1 needs \d+ MB: fits", disk_line(untrained))
    set_parameters(untrained, 10**13)
    assert re.fullmatch(
        r"disk {7}[\d.]+ [MGT]B free; phase1 needs 400 TB on /\S*, 400 TB too much: `\S*xtts-finetune disk` .*",
        disk_line(untrained),
    )


def set_parameters(checkout: Checkout, parameters: int) -> None:
    file = checkout.root / "prepared" / "base" / "base.json"
    base: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    base["gpt"]["parameters"] = parameters
    file.unlink()  # it is DVC's object, too
    file.write_text(json.dumps(base), encoding="utf-8")
