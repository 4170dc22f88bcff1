"""Whether a phase may start: what is said where it may not, and where the next one will not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from making.done_runs import done
from making.params import of_the_real_model
from making.prepared import describe_base
from small_disks import small_disk

from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import free_bytes, shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.preflight import preflight

FAR_TOO_MANY = 10**13  # parameters: 160 TB for a phase
OBJECT = 3_000_000  # bytes that an earlier run left in the cache


@pytest.fixture
def crowded(workspace: Workspace) -> Workspace:
    """A base that is far too large, and 3 MB of an earlier run in DVC's cache."""
    old = workspace.root / ".dvc" / "cache" / "files" / "md5" / "01" / ("23456789" * 4)[:30]
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(OBJECT))
    describe_base(workspace, FAR_TOO_MANY)
    return workspace


def make_params(keep_last: int = 1, **phase1: Any) -> Params:
    return of_the_real_model(keep_last=keep_last, phases=["phase1"], **phase1)


def refusal(workspace: Workspace, params: Params) -> list[str]:
    """Its lines, spaces made one."""
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(UserError) as refused:
        preflight(workspace, params, "phase1")
    assert sorted(workspace.root.rglob("*")) == before
    return [" ".join(line.split()) for line in str(refused.value).splitlines()]


def test_a_phase_that_does_not_fit_is_refused_with_the_sum_and_what_helps(crowded: Workspace) -> None:
    said = refusal(crowded, make_params(keep_last=3))
    assert said[0] == "phase1 does not fit on the disk"
    assert said[2:7] == [
        "states kept (keep_last) 3 × 120 TB 360 TB",
        "state being written 1 × 120 TB 120 TB",
        "best weights 1 × 40 TB 40 TB",
        "reports, samples, databases 1 × 100 MB 100 MB",
        "needed at the peak 520 TB",
    ]
    assert said[7].startswith("free ")
    assert said[8] == "missing 520 TB"
    freed = shown(OBJECT)
    assert said[9:] == [
        as_typed(f"remedy: xtts-finetune clean --intermediates --yes frees {freed}"),
        as_typed(f"xtts-finetune clean --best-only --yes frees {freed}"),
        "params.yaml: checkpoints.keep_last: 1 saves 240 TB",
        "params.yaml: train_phase1.optim: adamw8bit saves 238 TB",
        as_typed("xtts-finetune disk shows what else lies there"),
    ]


def test_nothing_is_offered_that_does_not_help(crowded: Workspace) -> None:
    shutil.rmtree(crowded.root / ".dvc" / "cache")
    said = refusal(crowded, make_params(optim="adamw8bit"))
    assert said[-1] == as_typed("remedy: xtts-finetune disk shows what else lies there")


def test_the_phases_own_states_are_no_help(crowded: Workspace) -> None:
    """Deleting an older one frees what the phase then has to write again."""
    for step in (100, 200):
        folder = crowded.work("phase1") / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(os.urandom(2 * OBJECT))
        write_json(folder / "manifest.json", {"files": {"model.safetensors": {"bytes": 2 * OBJECT}}})
    said = refusal(crowded, make_params())
    assert as_typed(f"remedy: xtts-finetune clean --intermediates --yes frees {shown(OBJECT)}") in said


def test_each_disk_is_helped_by_what_frees_it(crowded: Workspace, tmp_path: Path) -> None:
    """work/ is on a full disk of its own; the earlier run in DVC's cache is on the large one."""
    describe_base(crowded, 1_000_000)
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        (crowded.root / "work").symlink_to(disk.root)
        said = refusal(crowded, make_params(keep_last=3))
        assert said[1] == str(disk.root)
        assert [line for line in said if "frees" in line] == []
        assert "remedy: params.yaml: checkpoints.keep_last: 1 saves 24 MB" in said


def test_a_done_phase_needs_no_room(crowded: Workspace) -> None:
    crowded.work("phase1").mkdir(parents=True)
    write_json(crowded.work("phase1") / "DONE", done(make_params()))
    preflight(crowded, make_params(), "phase1")


def test_that_another_trainer_is_at_work_is_for_the_lock_to_say(crowded: Workspace) -> None:
    with locked(crowded.work("phase1")):
        preflight(crowded, make_params(), "phase1")


def test_before_prepare_there_is_nothing_to_ask(crowded: Workspace) -> None:
    shutil.rmtree(crowded.prepared)
    preflight(crowded, make_params(), "phase1")


def test_that_the_next_phase_will_not_fit_is_a_warning(crowded: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """With P parameters phase 1 takes 28 P bytes, phase 2 as many beside the 16 P that phase 1 leaves."""
    describe_base(crowded, free_bytes(crowded.root) // 36)
    preflight(crowded, make_params(), "phase1")
    warning, *lines = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: phase1 fits on ")
    assert "phase2 after it will not: " in warning
    assert as_typed("`xtts-finetune disk` shows what can go") in warning
    labels = [line.split("  ")[2] for line in lines]
    assert labels[:3] == ["states of phase1", "best of phase1", "states kept (keep_last)"]
    assert labels[-1] == "missing"
    preflight(crowded, make_params(), "phase2")  # nothing comes after it
    assert capsys.readouterr().err == ""


def test_where_all_fits_nothing_is_said(crowded: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    describe_base(crowded, 1_000_000)
    preflight(crowded, make_params(), "phase1")
    assert capsys.readouterr().err == ""
