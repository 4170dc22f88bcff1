"""Where an export may go, and that nothing half-written is ever there."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkouts import Checkout, killed_on_failure
from exporting import FILES, export, refused
from small_disks import small_disk

from xtts_finetune.core import files
from xtts_finetune.core.errors import DiskFull, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.processes import ProcessMark
from xtts_finetune.export import command, coqui, place
from xtts_finetune.export.place import free_place

pytestmark = pytest.mark.usefixtures("deterministic")


@pytest.mark.parametrize("kept", ["work", "checkpoints/phase1", "models", "prepared/x/y", "data", "mlruns/z", ".dvc"])
def test_what_others_keep_is_left_to_them(workspace: Workspace, kept: str) -> None:
    assert f"is in {kept.partition('/')[0]}/, which" in refused(workspace, workspace.root / kept)
    (workspace.root / "link").symlink_to(workspace.root / kept.partition("/")[0])
    assert f"is in {kept.partition('/')[0]}/, which" in refused(workspace, workspace.root / "link" / "anna")


@pytest.mark.parametrize("place", [".", "..", "../other"])
def test_folders_with_something_in_them(workspace: Workspace, place: str) -> None:
    (workspace.root.parent / "other").mkdir()
    (workspace.root.parent / "other" / "film.mkv").touch()
    for force in (False, True):
        assert "holds other files, which would be lost" in refused(workspace, workspace.root / place, force=force)


def test_a_file_is_no_folder(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "film.mkv").touch()
    assert "is a file" in refused(workspace, tmp_path / "film.mkv", force=True)
    assert "Not a directory" in refused(workspace, tmp_path / "film.mkv" / "anna")


def test_names_that_the_file_system_refuses(workspace: Workspace, tmp_path: Path) -> None:
    assert "File name too long" in refused(workspace, tmp_path / ("a" * 250))
    assert "File name too long" in refused(workspace, tmp_path / "b" / ("a" * 300) / "anna")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="cannot be used"):
        free_place(workspace, tmp_path / "loop" / "anna", force=False)


@pytest.mark.parametrize("name", ["-é \"q'$(touch x)`; ☂", "two\nlines", os.fsdecode(b"\xff\xfe")])
def test_hostile_names_are_names(workspace: Workspace, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a new" / name
    if not name.isprintable():
        assert "is no name for a voice" in refused(workspace, folder)
    export(workspace, folder, speaker="anna" if not name.isprintable() else None)
    assert sorted(os.listdir(folder)) == FILES
    assert os.listdir(tmp_path / "a new") == [name]
    speakers = torch.load(folder / "speakers_xtts.pth", weights_only=True)
    assert list(speakers) == [name if name.isprintable() else "anna"]


@pytest.mark.parametrize("speaker", ["", "  ", "a\nb", "\x1b[2J"])
def test_voices_without_a_name(workspace: Workspace, tmp_path: Path, speaker: str) -> None:
    assert "is no name for a voice" in refused(workspace, tmp_path / "anna", speaker=speaker)


def test_an_earlier_export_is_replaced_by_force_alone(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()  # an empty one is as good as none
    export(workspace, tmp_path / "anna")
    assert "holds an earlier export" in refused(workspace, tmp_path / "anna")
    export(workspace, tmp_path / "anna", "phase2@230", force=True, speaker="Anna")
    assert list(torch.load(tmp_path / "anna" / "speakers_xtts.pth", weights_only=True)) == ["Anna"]
    assert sorted(os.listdir(tmp_path / "anna")) == FILES
    (tmp_path / "anna" / "mine.wav").touch()
    assert "which would be lost: mine.wav" in refused(workspace, tmp_path / "anna", force=True)
    (tmp_path / "anna" / "mine.wav").unlink()
    (tmp_path / "anna" / "export.json").write_text("{}")  # somebody's XTTS v2, as far as names tell
    assert "which would be lost: no export" in refused(workspace, tmp_path / "anna", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_what_comes_to_be_there_meanwhile_stays(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def put(*_: object) -> dict[str, object]:
        (tmp_path / "anna").mkdir()
        (tmp_path / "anna" / "film.mkv").touch()
        return {}

    monkeypatch.setattr(coqui, "_voice", put)
    with pytest.raises(UserError, match=r"which would be lost: film\.mkv"):
        export(workspace, tmp_path / "anna", force=force)
    assert sorted(os.listdir(tmp_path)) == ["anna", workspace.root.name]
    assert os.listdir(tmp_path / "anna") == ["film.mkv"]


def test_what_comes_to_be_there_in_the_last_instant_stays(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(path: Path) -> None:
        (tmp_path / "anna").mkdir(exist_ok=True)
        (tmp_path / "anna" / "film.mkv").touch()

    export(workspace, tmp_path / "another")  # writes JSON and text, too
    monkeypatch.setattr(place, "published_folder", put_before_the_rename(monkeypatch, put))
    with pytest.raises(UserError, match=r"which would be lost: film\.mkv"):
        export(workspace, tmp_path / "anna")
    assert os.listdir(tmp_path / "anna") == ["film.mkv"]


def put_before_the_rename(monkeypatch: pytest.MonkeyPatch, put: Callable[[Path], None]) -> Callable[..., Any]:
    """published_folder, of which the first file to be fsynced is the sign that all looks have been taken."""

    @contextmanager
    def published(path: Path, replaces: bool) -> Iterator[Path]:
        with files.published_folder(path, replaces) as folder:
            yield folder
            monkeypatch.setattr(files, "fsync_path", put)

    return published


def test_one_export_at_a_time(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    voice = coqui._voice

    def another(*arguments: Any) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(coqui, "_voice", voice)
        said.append(refused(workspace, tmp_path / "anna", "phase2@230", force=True))
        export(workspace, tmp_path / "bob", "phase2@230")
        return voice(*arguments)

    monkeypatch.setattr(coqui, "_voice", another)
    export(workspace, tmp_path / "anna")
    assert "another export to there is under way" in said[0]
    assert sorted(os.listdir(tmp_path)) == sorted(["anna", "bob", workspace.root.name])
    assert sorted(os.listdir(tmp_path / "anna")) == FILES


def test_an_earlier_export_that_a_kill_left_without_its_name(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames of --force."""
    voices = tmp_path / "voices"
    export(workspace, voices / "anna", speaker="Anna")
    own = ProcessMark.own()
    (voices / "anna").rename(voices / f".anna.{replace(own, started=own.started - 1)}.1a2b.aside.tmp")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="holds an earlier export"):
        patch.setattr(coqui, "write_model", lambda *_: pytest.fail("minutes of work, and then it is refused"))
        export(workspace, voices / "anna")
    assert os.listdir(voices) == ["anna"]
    assert list(torch.load(voices / "anna" / "speakers_xtts.pth", weights_only=True)) == ["Anna"]
    export(workspace, voices / "anna", force=True)
    assert os.listdir(voices) == ["anna"]


def test_the_voice_is_called_as_the_folder_was_typed(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "on the disk").mkdir()
    (tmp_path / "anna").symlink_to("on the disk")
    export(workspace, tmp_path / "anna")
    assert list(torch.load(tmp_path / "on the disk" / "speakers_xtts.pth", weights_only=True)) == ["anna"]


def test_a_disk_without_room_is_refused_with_the_sum(workspace: Workspace, tmp_path: Path) -> None:
    with small_disk(tmp_path / "stick", 80_000_000) as disk:
        said = refused(workspace, disk.root / "anna")
        assert "the export does not fit on the disk" in said
        for term in ("model.pth   ", "vocabulary, voice, page", "needed at the peak", "missing"):
            assert term in said
        for mounted in (disk.root, Path("/")):
            assert "is where a disk is mounted" in refused(workspace, mounted)
        export(workspace, disk.root / "anna", half=True)  # as the sum says
        assert sorted(os.listdir(disk.root)) == ["anna"]


def test_a_disk_that_fills_up_meanwhile(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "preflight_export", lambda *_: None)
    for size in (20_000_000, 100_000_000):
        with small_disk(tmp_path / f"{size}", size) as disk:
            with pytest.raises(DiskFull):
                export(workspace, disk.root / "anna")
            assert os.listdir(disk.root) == []


@pytest.mark.slow  # a process loads Coqui's classes first
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_ended_half_way_nothing_has_the_name(
    workspace: Workspace, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    places = tmp_path / "voices"
    places.mkdir()
    checkout = Checkout(workspace.root)
    process = checkout.start("xtts-finetune", "export", "phase1", "../voices/anna")
    with killed_on_failure(process):
        deadline = time.monotonic() + 100
        while not any(places.glob(".anna.*.tmp/model.pth")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    left = os.listdir(places)
    assert "anna" not in left
    assert bool(left) == (number == signal.SIGKILL)
    done = checkout.run("xtts-finetune", "export", "phase1", "../voices/anna")  # again: what was left goes
    assert os.listdir(places) == ["anna"]
    assert "exporting models/phase1" in done.stdout
    assert "\r" not in done.stderr
    assert sorted(os.listdir(places / "anna")) == FILES
