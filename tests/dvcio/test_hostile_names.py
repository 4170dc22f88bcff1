"""Names of objects that lead out of DVC's cache: what is deleted by name must not be a file of the user's."""

import json
import os
from pathlib import Path

import pytest
from checkouts import Checkout

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.cache import Cache, named_entries, named_outs
from xtts_finetune.dvcio.history import revisions

FOLDER, OBJECT = "ab" + "0" * 30 + ".dir", "cd" + "1" * 30


@pytest.fixture
def thesis(tmp_path: Path) -> Path:
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    return file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "checkout"
    (root / ".dvc").mkdir(parents=True)
    return Workspace(root)


def store(cache: Cache, content: str) -> None:
    cache.path(FOLDER).parent.mkdir(parents=True)
    cache.path(FOLDER).write_text(content)


def test_a_listing_that_names_a_file_outside_is_refused(workspace: Workspace, thesis: Path) -> None:
    cache = Cache(workspace)
    store(cache, json.dumps([{"relpath": "DONE", "md5": OBJECT}, {"relpath": "a", "md5": f"ab{thesis}"}]))
    with pytest.raises(UserError, match="is no object") as error:
        cache.paths(cache.below([FOLDER]))
    assert str(cache.path(FOLDER)) in error.value.problems[0].where


@pytest.mark.parametrize("path", ["../../thesis.txt", "/etc/passwd", "a/../../b"])
def test_a_listing_that_leaves_its_folder_is_refused(workspace: Workspace, path: str) -> None:
    cache = Cache(workspace)
    store(cache, json.dumps([{"relpath": path, "md5": OBJECT}]))
    with pytest.raises(UserError, match="lies outside of the folder"):
        cache.listing(FOLDER)


@pytest.mark.parametrize("content", ["", "[{", "5", "[5]", '[{"md5": "x"}]', '[{"md5": "x", "relpath": 5}]', "\0"])
def test_a_damaged_listing_is_refused(workspace: Workspace, content: str) -> None:
    cache = Cache(workspace)
    store(cache, content)
    with pytest.raises(UserError, match="is no listing that DVC wrote"):
        cache.listing(FOLDER)


def test_dvc_lock_and_dvc_files_that_name_one_are_refused(workspace: Workspace, thesis: Path) -> None:
    workspace.dvc_lock.write_text(f"stages: {{train: {{outs: [{{path: models/phase1, md5: 'ab{thesis}'}}]}}}}")
    with pytest.raises(UserError, match="is no object"):
        named_entries(workspace)
    workspace.dvc_lock.unlink()
    (workspace.root / "data.dvc").write_text(f"outs: [{{path: data, md5: 'ab{thesis}'}}]")
    with pytest.raises(UserError, match="is no object"):
        named_outs(workspace)


def test_what_a_commit_names_so_is_nothing(workspace: Workspace, thesis: Path) -> None:
    """It cannot be taken back from history; and there is no such object to keep."""
    checkout = Checkout(workspace.root)
    checkout.run("git", "init", "--quiet")
    outs = f"[{{path: models/phase1, md5: {FOLDER}}}, {{path: models/phase2, md5: 'ab{thesis}'}}]"
    workspace.dvc_lock.write_text(f"stages: {{train: {{outs: {outs}}}}}")
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "Hostile")
    assert [revision.outs for revision in revisions(workspace)] == [{"models/phase1": FOLDER}]


def test_what_is_no_object_is_not_taken_for_one(workspace: Workspace) -> None:
    cache = Cache(workspace)
    store(cache, "[]")
    cache.path(FOLDER).with_name("notes.txt").write_text("mine")
    assert cache.objects() == {FOLDER}


def test_dvc_files_are_read_where_dvc_reads_them(workspace: Workspace) -> None:
    """Not within an out, which may hold 50,000 files; but a file may say that its out lies elsewhere."""
    files = {
        "data.dvc": ("a", "data", ""),
        "data/inner.dvc": ("b", "inner", ""),
        "meta/data.dvc": ("c", "data", "wdir: ..\n"),
        "meta/data/own.dvc": ("d", "own", ""),
    }
    for name, (letter, path, more) in files.items():
        file = workspace.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{more}outs:\n- md5: {letter * 32}\n  path: {path}\n", encoding="utf-8")
    assert set(named_outs(workspace).values()) == {letter * 32 for letter in "acd"}


def test_a_folder_of_a_shared_cache_that_nobody_may_enter_is_passed_over(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests run as root, too, who may enter all of them."""
    cache, listed = Cache(workspace), os.listdir
    store(cache, "[]")
    (cache.folder / "cd").mkdir()

    def refusing(folder: Path) -> list[str]:
        if folder.name == "cd":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "listdir", refusing)
    assert cache.objects() == {FOLDER}
