"""How a stage ends that cannot go on: its exit, and the page it leaves."""

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from damage import halve
from making.params import make_params
from small_disks import SmallDisk, small_disk

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import DiskFull, OutOfMemory, Stopped, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.stages.memory import is_out_of_memory
from xtts_finetune.stages.stops import explained_stops


@pytest.fixture
def small(template: Workspace, tmp_path: Path) -> Workspace:
    """As `prepare` left it."""
    shutil.copytree(template.root, tmp_path / "small")
    small = Workspace(tmp_path / "small")
    small.params.write_text(yaml.safe_dump(make_params().model_dump()), encoding="utf-8")
    return small


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_says_what_to_type(workspace: Workspace) -> None:
    with pytest.raises(Stopped), explained_stops(workspace):
        full()
    page = workspace.stopped.read_text(encoding="utf-8")
    assert "No space left on device" in page
    assert as_typed("type dvc repro") in page
    assert "xtts-finetune clean --best-only --yes" in page
    with explained_stops(workspace):
        assert not workspace.stopped.exists(), "nothing is the matter"


def test_only_the_first_line_of_what_a_library_said(workspace: Workspace) -> None:
    with pytest.raises(Stopped), explained_stops(workspace):
        raise ValueError("database or disk is full\n[SQL: INSERT " + "x" * 9000)
    assert len(workspace.stopped.read_text(encoding="utf-8")) < 2000


@pytest.mark.parametrize("damaged", ["base/base.json", "base/config.json", "base/vocab.json", "train.jsonl"])
def test_out_of_memory_is_a_stop_whatever_else_is_the_matter(small: Workspace, damaged: str) -> None:
    halve(small.prepared / damaged)
    with pytest.raises(Stopped), explained_stops(small):
        raise OutOfMemory("phase1 is saved at step 7", "phase1")
    page = small.stopped.read_text(encoding="utf-8")
    assert "phase1 is saved at step 7" in page
    assert "(not known here: " in page


@pytest.mark.parametrize("how", [KeyboardInterrupt, Stopped])
def test_an_interrupt_is_a_stop(workspace: Workspace, how: Callable[[str], BaseException]) -> None:
    with pytest.raises(Stopped), explained_stops(workspace):
        raise how("phase1 is saved at step 7; run dvc repro again to resume")
    assert "dvc repro again" in workspace.stopped.read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [ValueError("a bug"), FileExistsError(17, "File exists", "/nowhere")])
def test_a_bug_stays_one(workspace: Workspace, error: Exception) -> None:
    with pytest.raises(type(error)), explained_stops(workspace):
        raise error
    assert not workspace.stopped.exists()


def test_a_file_where_a_folder_belongs(workspace: Workspace) -> None:
    (workspace.root / "models").write_text("a shopping list")
    with pytest.raises(UserError, match="is a file where a folder belongs") as error, explained_stops(workspace):
        (workspace.root / "models" / "phase1").mkdir()
    assert error.value.problems[0].where == str(workspace.root / "models")


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "work/phase1"), "work/phase1"),
        (OSError(errno.EROFS, "Read-only file system", "work"), "work"),
        (RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"), "mlruns/mlflow.db"),
    ],
)
def test_what_may_not_be_written_is_named(workspace: Workspace, error: Exception, where: str) -> None:
    with pytest.raises(UserError, match="a file cannot be written") as caught, explained_stops(workspace):
        raise error
    assert caught.value.problems[0].where.endswith(where)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        yield disk


def test_the_page_has_room_on_a_disk_full_to_the_last_byte(disk: SmallDisk) -> None:
    workspace = Workspace(disk.root / "my vöice")
    workspace.reports.mkdir(parents=True)
    with pytest.raises(Stopped), explained_stops(workspace):
        disk.fill()
        assert disk.free == 0
        full()
    for _ in range(2):  # still full when it is started again
        assert "the disk is full" in workspace.stopped.read_text(encoding="utf-8")
        with pytest.raises(Stopped), explained_stops(workspace):
            raise DiskFull("again")


def test_a_disk_that_is_full_before_the_stage_begins(disk: SmallDisk) -> None:
    """The room for the page is left by the stage before, which had it to spare."""
    workspace = Workspace(disk.root)
    workspace.reports.mkdir(parents=True)
    with explained_stops(workspace):
        pass
    disk.fill()
    with pytest.raises(Stopped), explained_stops(workspace):
        full()
    assert "the disk is full" in workspace.stopped.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
    ids=str,
)
def test_what_is_a_lack_of_memory(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory


def test_in_the_copy_of_an_experiment_it_is_queued_again(workspace: Workspace) -> None:
    """Nobody types `dvc repro` there: DVC deletes the copy."""
    copy = Workspace(workspace.root / ".dvc" / "tmp" / "exps" / "tmpabc")
    copy.root.mkdir(parents=True)
    with pytest.raises(Stopped) as stopped, explained_stops(copy):
        raise Stopped("phase1 is saved at step 7; run dvc repro again to resume")
    assert str(stopped.value) == "phase1 is saved at step 7; queue the same experiment again to resume"
    with pytest.raises(Stopped) as stopped, explained_stops(copy):
        raise KeyboardInterrupt
    assert str(stopped.value).endswith("Queue the same experiment again to go on")
