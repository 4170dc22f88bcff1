"""What a phase needs on which file system: the sums, by the shapes of the real model and on small real disks."""

import os
from pathlib import Path
from typing import Any

import pytest
from making.params import LORA, of_the_real_model
from making.prepared import describe_base
from small_disks import SmallDisk

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import CODEC, VOCODER, PhaseName, Workspace
from xtts_finetune.diskspace.beside import VOCODER_BYTES, beside_weights
from xtts_finetune.diskspace.budget import SMALL_THINGS, Budget
from xtts_finetune.dvcio.cache import Cache

XTTS_V2 = 441_018_563  # parameters
SMALL = 1_000_000  # parameters of `workspace`
STATE, WEIGHTS = 12 * SMALL, 4 * SMALL  # bytes, with adamw


def needs(
    workspace: Workspace, phase: PhaseName = "phase1", before: tuple[PhaseName, ...] = (), **changes: Any
) -> dict[Path, int]:
    """Bytes by disk, less the room for small things."""
    demands = Budget(workspace, of_the_real_model(**{"keep_last": 1, **changes}), Cache(workspace)).peak(phase, before)
    return {demand.disk: demand.needed - (SMALL_THINGS if is_root(workspace, demand.disk) else 0) for demand in demands}


def is_root(workspace: Workspace, disk: Path) -> bool:
    return os.stat(workspace.root).st_dev == os.stat(disk).st_dev


def only(by_disk: dict[Path, int]) -> int:
    [size] = by_disk.values()
    return size


def write_state(workspace: Workspace, step: int = 200, state: int = STATE, weights: int = WEIGHTS) -> Path:
    """A state of these sizes in work/phase1."""
    folder = workspace.work("phase1") / f"step-{step:08d}"
    folder.mkdir(parents=True)
    files = {"model.safetensors": weights, "optimizer.safetensors": state - weights}
    for name, size in files.items():
        (folder / name).write_bytes(bytes(size))
    write_json(folder / "manifest.json", {"files": {name: {"bytes": size} for name, size in files.items()}})
    return folder


# One file system.


@pytest.mark.parametrize(
    ("keep_last", "optim", "gigabytes"), [(1, "adamw", 12.35), (2, "adamw", 17.64), (1, "adamw8bit", 7.09)]
)
def test_the_real_model(workspace: Workspace, keep_last: int, optim: str, gigabytes: float) -> None:
    describe_base(workspace, XTTS_V2)
    needed = only(needs(workspace, keep_last=keep_last, optim=optim))
    assert needed / 1e9 == pytest.approx(gigabytes, abs=0.005)


def test_the_sum_is_shown_term_by_term(workspace: Workspace) -> None:
    describe_base(workspace, XTTS_V2)
    [demand] = Budget(workspace, of_the_real_model(keep_last=2), Cache(workspace)).peak("phase1")
    lines = [" ".join(line.split()) for line in demand.lines()]
    assert lines[:5] == [
        "states kept (keep_last) 2 × 5.29 GB 10.6 GB",
        "state being written 1 × 5.29 GB 5.29 GB",
        "best weights 1 × 1.76 GB 1.76 GB",
        "reports, samples, databases 1 × 100 MB 100 MB",
        "needed at the peak 17.7 GB",
    ]
    assert sum(term.bytes for term in demand.terms) == demand.needed
    assert lines[5].startswith("free ")


def test_before_prepare_only_the_published_base_is_known(workspace: Workspace) -> None:
    (workspace.prepared / "base" / "base.json").unlink()
    own = of_the_real_model(keep_last=1).model_copy(update={"base": "/voices/own"})
    assert Budget(workspace, own, Cache(workspace)).peak("phase1") == []
    before = needs(workspace)
    describe_base(workspace, XTTS_V2)
    assert needs(workspace) == before


def test_the_second_phase_comes_on_top_of_what_the_first_leaves(workspace: Workspace) -> None:
    left = 2 * STATE + WEIGHTS
    alone = only(needs(workspace, "phase2", keep_last=2))
    assert only(needs(workspace, "phase2", before=("phase1",), keep_last=2)) == alone + left


def test_a_state_on_disk_is_measured(workspace: Workspace) -> None:
    write_state(workspace, 100)
    write_state(workspace, 200, state=STATE + 90_000, weights=WEIGHTS + 30_000)
    [demand] = Budget(workspace, of_the_real_model(keep_last=1), Cache(workspace)).peak("phase1")
    assert [term.each for term in demand.terms[:3]] == [STATE + 90_000, STATE + 90_000, WEIGHTS + 30_000]


@pytest.mark.parametrize("content", ["{", '{"files": {"model.safetensors": {"bytes": Infinity}}}'])
def test_a_damaged_one_is_not(workspace: Workspace, content: str) -> None:
    (write_state(workspace) / "manifest.json").write_text(content)
    [demand] = Budget(workspace, of_the_real_model(), Cache(workspace)).peak("phase1")
    assert (demand.terms[0].each, demand.terms[2].each) == (STATE, WEIGHTS)


def test_a_state_without_an_average_is_none_of_a_run_with_one(workspace: Workspace) -> None:
    """Even where both are nearly as large."""
    write_state(workspace)
    params = of_the_real_model(keep_last=1, optim="adamw8bit", ema=0.99)
    [demand] = Budget(workspace, params, Cache(workspace)).peak("phase1")
    assert (demand.terms[0].each, demand.terms[2].each) == (10_040_000, WEIGHTS)


@pytest.mark.parametrize("other", ["optimiser", "base"])
def test_a_state_of_another_run_is_not(workspace: Workspace, other: str) -> None:
    write_state(workspace)
    if other == "base":
        describe_base(workspace, 2 * SMALL)
    params = of_the_real_model(keep_last=1, optim="adamw8bit" if other == "optimiser" else "adamw")
    [demand] = Budget(workspace, params, Cache(workspace)).peak("phase1")
    expected = {"optimiser": (6_040_000, WEIGHTS), "base": (2 * STATE, 2 * WEIGHTS)}
    assert (demand.terms[0].each, demand.terms[2].each) == expected[other]


def test_what_the_phase_holds_is_no_more_needed(workspace: Workspace) -> None:
    state = write_state(workspace)
    best = workspace.work("phase1") / "best-00000200"
    best.mkdir()
    os.link(state / "model.safetensors", best / "model.safetensors")
    assert only(needs(workspace)) == pytest.approx(STATE + WEIGHTS, abs=50_000)
    reserve = workspace.work("phase1").with_name("phase1.reserve")
    reserve.write_bytes(bytes(WEIGHTS))
    assert only(needs(workspace)) == pytest.approx(STATE, abs=50_000)
    left = STATE + WEIGHTS
    assert only(needs(workspace, "phase2", before=("phase1",))) == pytest.approx(left + STATE, abs=50_000)


def test_what_others_hold_with_it_is(workspace: Workspace) -> None:
    """States brought back from DVC's cache, to go on from: that they leave work/ will free nothing."""
    state = write_state(workspace)
    for file in state.iterdir():
        os.link(file, workspace.root / ".dvc" / file.name)
    assert only(needs(workspace)) == 2 * STATE + WEIGHTS


@pytest.mark.parametrize("types", ["copy", "reflink,copy", "symlink,hardlink", None])
def test_a_cache_that_takes_no_links_first_takes_copies(workspace: Workspace, types: str | None) -> None:
    config = workspace.root / ".dvc" / "config"
    config.write_text(f"[cache]\n    type = {types}\n" if types else "")
    copies = STATE + WEIGHTS
    assert only(needs(workspace)) == 2 * STATE + WEIGHTS + copies
    left = copies if "symlink" in (types or "") else 2 * copies
    assert only(needs(workspace, "phase2", before=("phase1",))) == 2 * STATE + WEIGHTS + copies + left


# Several.


def test_the_cache_on_another_disk_takes_copies_there(workspace: Workspace, other_disk: SmallDisk) -> None:
    (workspace.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {other_disk.root / 'cache'}\n")
    by_disk = needs(workspace, keep_last=2)
    assert by_disk.pop(other_disk.root) == 2 * STATE + WEIGHTS
    assert only(by_disk) == 3 * STATE + WEIGHTS
    # What the first phase leaves is there alone, and what is registered is copied from there.
    by_disk = needs(workspace, "phase2", before=("phase1",))
    assert by_disk.pop(other_disk.root) == 2 * (STATE + WEIGHTS)
    assert only(by_disk) == 2 * STATE + WEIGHTS + WEIGHTS


def test_work_on_another_disk_is_copied_from_there(workspace: Workspace, other_disk: SmallDisk) -> None:
    (workspace.root / "work").symlink_to(other_disk.root)
    by_disk = needs(workspace, keep_last=2)
    assert by_disk.pop(other_disk.root) == 3 * STATE + WEIGHTS
    assert only(by_disk) == 2 * STATE + WEIGHTS + WEIGHTS


@pytest.mark.parametrize(
    ("phase", "uri", "copied"),
    [("phase2", None, WEIGHTS + VOCODER_BYTES // 100), ("phase2", "http://127.0.0.1:5000", 0), ("phase1", None, 0)],
)
def test_mlflow_on_another_disk(
    workspace: Workspace, other_disk: SmallDisk, phase: PhaseName, uri: str | None, copied: int
) -> None:
    """The best is registered, with its vocoder, once both phases are done; a server keeps it elsewhere."""
    (workspace.prepared / "base" / VOCODER).write_bytes(bytes(VOCODER_BYTES // 100))
    (workspace.root / "mlruns").symlink_to(other_disk.root)
    by_disk = needs(workspace, phase, uri=uri)
    assert by_disk.pop(other_disk.root, 0) == copied
    assert only(by_disk) == 2 * STATE + WEIGHTS


@pytest.mark.parametrize("uri", [None, "http://127.0.0.1:5000"])
def test_what_is_put_together_lies_there_twice_without_links(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    """In phase 1 parts are trained, in phase 2 all: `evaluate` may put phase 1's together."""
    changes: dict[str, Any] = {"uri": uri, "phases": ["phase1"], **LORA}
    monkeypatch.setattr("xtts_finetune.diskspace.budget.can_link", lambda source, target: False)
    full = only(needs(workspace, "phase2", uri=uri))
    assert only(needs(workspace, "phase2", **changes)) == full + WEIGHTS * (1 if uri is None else 2)


def test_what_lies_beside_another_base_s_weights_counts_for_nothing(workspace: Workspace) -> None:
    (workspace.prepared / "base" / CODEC).write_bytes(bytes(5000))
    assert beside_weights(workspace, "xtts_v2") == 5000
    describe_base(workspace, base="mini")
    assert beside_weights(workspace, "xtts_v2") == VOCODER_BYTES
    assert beside_weights(workspace, "mini") == 5000


def test_what_is_free_counts_per_disk(workspace: Workspace, other_disk: SmallDisk) -> None:
    (workspace.root / "work").symlink_to(other_disk.root)
    demands = Budget(workspace, of_the_real_model(keep_last=1), Cache(workspace)).peak("phase1")
    missing = {demand.disk: demand.missing for demand in demands}
    assert missing.pop(other_disk.root) == 2 * STATE + WEIGHTS - other_disk.free
    assert list(missing.values()) == [0]


def test_a_quota_on_one_folder_counts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workspace.work("phase1")
    monkeypatch.setattr("xtts_finetune.diskspace.budget.free_bytes", lambda path: 5 if path == work else 10**12)
    [demand] = Budget(workspace, of_the_real_model(keep_last=1), Cache(workspace)).peak("phase1")
    assert demand.free == 5
