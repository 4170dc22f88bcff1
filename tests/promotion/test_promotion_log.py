"""The log of promotions: a line that was changed, taken out or doubled is found."""

import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from promoting import MODEL, Team

from xtts_finetune.core.errors import DiskFull, UserError
from xtts_finetune.promotion import command, moving
from xtts_finetune.promotion.command import vouch_lines
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import TAG, Entry, Log, known_here
from xtts_finetune.tracking.versions import Versions


@pytest.fixture
def log(team: Team) -> Path:
    """Of three promotions."""
    for mel_ce in (4.4, 4.3, 4.2, 4.1):
        team.register(mel_ce)
        team.promote()
    assert len(team.entries) == 3
    return team.workspace.promotions


def found(team: Team, verify: bool = False) -> str:
    with pytest.raises(UserError) as error:
        team.history(verify)
    return str(error.value)


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize(
    "change", [('"forced": false', '"forced": true'), ('"champion": ', '"champion": 1'), ('"why": "', '"why": "no ')]
)
def test_a_line_that_was_changed(team: Team, log: Path, line: int, change: tuple[str, str]) -> None:
    lines = log.read_text().splitlines()
    assert change[0] in lines[line]
    lines[line] = lines[line].replace(*change)
    log.write_text("\n".join(lines) + "\n")
    assert f"promotions.jsonl:{line + 1}\n      was changed after it was written" in found(team)


def test_a_line_that_was_taken_out(team: Team, log: Path) -> None:
    lines = log.read_text().splitlines()
    for gone in (0, 1):
        log.write_text("".join(f"{line}\n" for number, line in enumerate(lines) if number != gone))
        assert f"promotions.jsonl:{gone + 1}\n      the entry that it follows is not before it" in found(team)
    log.write_text("".join(f"{line}\n" for line in lines[:-1]))  # of the last MLflow alone can tell
    assert "lacks an entry that MLflow has" in found(team, verify=True)


def test_lines_that_changed_places_or_stand_there_twice(team: Team, log: Path) -> None:
    one, two, three = log.read_text().splitlines()
    log.write_text(f"{one}\n{three}\n{two}\n")
    assert "promotions.jsonl:2\n      the entry that it follows is not before it" in found(team)
    log.write_text(f"{one}\n{two}\n{two}\n{three}\n")
    assert "promotions.jsonl:3\n      stands there twice" in found(team)


def test_what_git_leaves_where_branches_meet(team: Team, log: Path) -> None:
    one, two, three = log.read_text().splitlines()
    log.write_text(f"{one}\n<<<<<<< HEAD\n{two}\n=======\n{three}\n>>>>>>> other\n")
    said = found(team)
    assert said.count("keep the entries of both sides, and delete this line") == 3
    log.write_text(f"{one}\n{two}\n{three}\n")
    assert "3 entries" in "".join(team.history(verify=True))


def test_both_sides_of_a_fork_stand(team: Team, log: Path) -> None:
    """Two clones promoted at once: both follow the same entry."""
    entries = team.entries
    other = entries[2].model_copy(update={"who": "Somebody else"})
    log.write_text("".join(f"{entry.text}\n" for entry in (*entries, other)))
    assert "Somebody else" in team.history()


def test_mlflow_s_copy_was_changed(team: Team, log: Path) -> None:
    entry = team.entries[1]
    for text, what in ((entry.text.replace("false", "true"), "is not as it was written"), (None, "is not there")):
        if text:
            team.store.client.set_model_version_tag(entry.model, str(entry.champion), entry.tag, text)
        else:
            team.store.client.delete_model_version_tag(entry.model, str(entry.champion), entry.tag)
        assert f"tag {entry.tag}\n      {what}" in found(team, verify=True)
    team.store.client.set_model_version_tag(entry.model, "1", "promotion.mine", "{}")
    assert "tag promotion.mine\n      is no entry of the log" in found(team, verify=True)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]\n", b"{}\n", b'"sha256"\n', b"\n"])
def test_what_is_no_log(team: Team, content: bytes) -> None:
    team.workspace.promotions.parent.mkdir()
    team.workspace.promotions.write_bytes(content)
    assert "the promotion log cannot be used" in found(team)


def test_what_an_editor_adds(team: Team, log: Path) -> None:
    """A mark at the beginning is passed over; of a blank line it is said that it can go."""
    content = log.read_bytes()
    log.write_bytes(b"\xef\xbb\xbf" + content)
    assert len(team.entries) == 3
    log.write_bytes(content + b"\n")
    assert "promotions.jsonl:4\n      is no entry\n      remedy: delete the line" in found(team)


def test_a_folder_in_its_place(team: Team, log: Path) -> None:
    log.unlink()
    log.mkdir()
    said = found(team)
    assert "promotions.jsonl\n      cannot be read: Is a directory" in said
    log.rmdir()
    assert "is the champion already" in team.promote(4)
    assert len(team.entries) == 3


def test_an_entry_of_before_registries_were_told_apart(team: Team, log: Path) -> None:
    """It has no such field, and is known by its weights."""
    old = [entry.model_copy(update={"registry": "", "follows": []}) for entry in team.entries[:1]]
    assert "registry" not in old[0].text
    assert Entry.parse(old[0].text) == old[0]
    assert "registry" in team.entries[0].text


def forged(log: Path, line: int, **changes: Any) -> Entry:
    """A line with other content and a SHA-256 that is right: whoever can run Python can make one."""
    lines = log.read_text().splitlines()
    entry = Entry.parse(lines[line]).model_copy(update=changes)
    lines[line] = entry.text
    log.write_text("".join(f"{text}\n" for text in lines))
    return entry


def test_a_last_line_that_was_forged_never_becomes_mlflow_s(team: Team, log: Path) -> None:
    entry = forged(log, 2, why="the boss said so")
    for act in (lambda: team.promote(1, force=True, why="x"), team.rollback, lambda: team.history(verify=True)):
        with pytest.raises(UserError) as error:
            act()
        said = str(error.value)
        assert "has an entry that MLflow never had, and that was not written in this workspace" in said
        assert "the boss said so" in said
    assert team.champion == 4
    tags = [tag for version in Versions.of(team.store, MODEL).versions for tag in version.tags]
    assert entry.tag not in tags
    log.unlink()
    assert "went back: champion version 4" in team.rollback(), "MLflow's entries come back"
    team.history(verify=True)


def test_nor_does_one_that_was_added(team: Team, log: Path) -> None:
    last = Entry.parse(log.read_text().splitlines()[-1])
    added = last.model_copy(update={"follows": [last.digest], "why": "nobody did"})
    with log.open("a") as stream:
        stream.write(f"{added.text}\n")
    with pytest.raises(UserError, match="that MLflow never had"):
        team.rollback()


def test_who_answers_for_a_line_may_have_it(team: Team, log: Path) -> None:
    """As of a clone that was killed before MLflow had it, and is gone."""
    entry = forged(log, 2, why="in that other clone")
    with pytest.raises(UserError, match="of no such entry is it asked"):
        list(vouch_lines(team.workspace, "0123"))
    [said] = vouch_lines(team.workspace, entry.digest[:16])
    assert "in that other clone" in said
    assert "went back" in team.rollback()
    team.history(verify=True)


def test_a_full_disk_moves_nobody(team: Team, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has its room before the champion moves."""
    before, write = log.read_bytes(), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if log.name not in path.name:  # other files have room
            return write(path, content)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for act in (team.rollback, lambda: team.promote(1, force=True, why="x")):
            with pytest.raises(DiskFull, match=r"make room \(xtts-finetune clean\), then type it again"):
                act()
    assert (team.champion, log.read_bytes()) == (4, before)
    assert list(log.parent.glob(".*")) == []
    team.rollback()
    team.history(verify=True)


def test_a_refusal_in_an_older_commit_s_checkout_writes_no_file(team: Team, log: Path) -> None:
    """It would stand in the way of `git checkout -`, as an untracked file that the branch has."""
    root = team.workspace.root
    git(root, "init", "--quiet")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "First")
    git(root, "checkout", "--quiet", "--detach")
    log.unlink()
    with pytest.raises(UserError, match="does not pass"):
        team.promote(1)
    assert not log.exists()
    git(root, "checkout", "--quiet", "-B", "main")
    with pytest.raises(UserError, match="does not pass"):
        team.promote(1)
    assert log.exists()


def git(root: Path, *arguments: str) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", *arguments], cwd=root, env={**os.environ, **who}, check=True, capture_output=True)


def test_a_forged_line_of_a_version_that_is_gone(team: Team, log: Path) -> None:
    """MLflow has no copy to hold it against. A line of the same version that a genuine one follows is not in doubt."""
    team.store.client.delete_model_version(MODEL, "2")
    (team.workspace.root / "work" / "promotions.json").unlink()  # as in a clone
    assert "1 of versions that were deleted" in team.history(verify=True)
    last = Entry.parse(log.read_text().splitlines()[-1])
    gone = Entry.parse(log.read_text().splitlines()[0])
    forged = gone.model_copy(update={"who": "The Boss <boss@example.org>", "why": "approved", "follows": [last.digest]})
    with log.open("a") as stream:
        stream.write(f"{forged.text}\n")
    for act in (lambda: team.promote(1, force=True, why="x"), team.rollback, lambda: team.history(verify=True)):
        with pytest.raises(UserError, match="of a version that was deleted in MLflow") as error:
            act()
        assert str(error.value).count("remedy") == 1, "what else is the matter depends on it"
    assert "NOT KNOWN to be genuine" in team.history().splitlines()[3]


@pytest.mark.parametrize(
    "change", [lambda line: '{"who": "The Boss", ' + line[1:], lambda line: line.replace('": ', '":  '), str.upper]
)
def test_a_line_that_was_changed_beside_its_digest(team: Team, log: Path, change: Callable[[str], str]) -> None:
    """JSON takes a field twice, and keeps one; it does not mind blanks."""
    one, two, three = log.read_text().splitlines()
    log.write_text(f"{one}\n{change(two)}\n{three}\n")
    assert "promotions.jsonl:2\n" in found(team, verify=True)


def test_the_champion_is_gone(team: Team, log: Path) -> None:
    team.store.client.delete_registered_model_alias(MODEL, "champion")
    assert "by its last line version 4 is champion; in MLflow none is" in found(team, verify=True)
    assert "there is no champion in MLflow; by the last line it is version 4" in team.history()
    team.promote(4)
    assert team.champion == 4
    team.history(verify=True)


def test_the_newest_version_is_gone_which_was_champion(team: Team, log: Path) -> None:
    team.store.client.delete_model_version(MODEL, "4")
    assert "not in this registry" not in team.history()
    said = found(team, verify=True)
    assert "by its last line version 4 is champion; in MLflow none is, and that version was deleted" in said
    for version in "123":
        team.store.client.delete_model_version(MODEL, version)
    assert f"has no version of {MODEL}: no entry can be held against it" in found(team, verify=True)


def test_who_reads_makes_no_database(team: Team, log: Path) -> None:
    database = team.workspace.tracking_db
    database.rename(database.with_suffix(".away"))
    assert "MLflow is not known" in team.history()
    assert "is not there" in found(team, verify=True)
    assert not database.exists()


def test_a_database_that_another_program_holds(team: Team, log: Path) -> None:
    with closing(sqlite3.connect(team.workspace.tracking_db)) as held:
        held.execute("BEGIN EXCLUSIVE")
        fresh = Team(team.workspace)
        with pytest.raises(UserError, match=r"another program holds it: .*locked"):
            fresh.promote(1, force=True, why="x")
    assert team.champion == 4


def test_a_weights_tag_that_was_changed(team: Team, log: Path) -> None:
    """The entries of its version are no strangers' by that."""
    [tag] = [tag for tag in team.store.client.get_model_version(MODEL, "4").tags if tag.startswith(TAG)]
    team.store.client.set_model_version_tag(MODEL, "4", WEIGHTS_TAG, "f00d")
    said = found(team, verify=True)
    assert f"tag {WEIGHTS_TAG}\n      is not that of the weights which were promoted" in said
    assert team.entries[2].champion_sha256 in said
    assert tag not in said
    assert said.count("remedy") == 1, "who is champion by the log depends on it"
    for act in (lambda: team.promote(1, force=True, why="x"), team.rollback):  # nor is another entry made of it
        with pytest.raises(UserError, match="is not that of the weights which were promoted"):
            act()
    assert len(team.entries) == 3


def test_a_copy_that_was_changed_is_written_anew(team: Team, log: Path) -> None:
    entry = team.entries[1]
    team.store.client.set_model_version_tag(MODEL, "3", entry.tag, "{}")
    assert "the next promote brings it" in found(team, verify=True)
    team.promote(4)
    assert team.store.client.get_model_version(MODEL, "3").tags[entry.tag] == entry.text
    team.history(verify=True)


def test_a_log_that_may_not_be_written_moves_nobody(team: Team, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.read_bytes()

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(UserError, match="the promotion log cannot be written") as error:
            team.promote(1, force=True, why="x")
    assert "Read-only file system" in str(error.value)
    assert (team.champion, log.read_bytes()) == (4, before)


def test_a_log_that_cannot_be_replaced_says_who_is_champion_by_now(
    team: Team, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it is a mount: the champion has moved before the file is put in its place."""
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == log.name:
            raise OSError(errno.EBUSY, "Device or resource busy", str(source), None, str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match="version 1 is champion now, and that could not be written down"):
            team.promote(1, force=True, why="It sounds better.")
    assert team.champion == 1
    team.promote(1)
    assert team.entries[-1].why.startswith("It sounds better. (")
    team.history(verify=True)


@pytest.mark.skipif(os.name == "nt", reason="who may enter a folder is said otherwise on Windows")
def test_in_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    file = tmp_path / "registry" / "promotions.jsonl"
    file.parent.mkdir(mode=0)
    is_root = os.geteuid() == 0
    try:
        if is_root:  # who may enter any folder
            os.seteuid(65534)
        with pytest.raises(UserError, match=r"promotions\.jsonl\n +cannot be read: Permission denied"):
            Log.read(file)
    finally:
        if is_root:
            os.seteuid(0)
        file.parent.chmod(0o700)


def test_a_link_in_its_place(team: Team, log: Path) -> None:
    """It would be replaced by a file, and what it points to would be as before."""
    elsewhere = log.rename(team.workspace.root / "elsewhere.jsonl")
    log.symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link"):
        team.promote(1, force=True, why="x")
    assert team.champion == 4


def test_a_file_in_place_of_its_folder(team: Team, log: Path) -> None:
    log.unlink()
    log.parent.rmdir()
    log.parent.touch()
    assert f"{log.parent}\n" in found(team)


def test_a_refused_move_leaves_nothing_to_be_told_of_it(team: Team, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who moves the alias there, days later, did so for reasons of their own."""

    def refuse(*_: object) -> None:
        raise MlflowException("503")

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move_champion", refuse)
        with pytest.raises(UserError, match="the champion was not moved"):
            team.promote(1, force=True, why="Only if Bob agrees.")
    team.store.client.set_registered_model_alias(MODEL, "champion", "1")
    team.promote(2, force=True, why="x")
    assert "Bob" not in log.read_text()
    assert [entry.action for entry in team.entries[3:]] == ["found", "promote"]


def test_a_line_of_another_registry_is_vouched_for_by_nobody(team: Team, log: Path) -> None:
    """It may become one of this registry's when the version that it names is deleted."""
    last = Entry.parse(log.read_text().splitlines()[-1])
    changes = {"champion": 3, "champion_sha256": "f00d", "before": 4, "before_sha256": last.champion_sha256}
    forged = last.model_copy(update={**changes, "who": "The Boss <boss@example.org>", "follows": [last.digest]})
    with log.open("a") as stream:
        stream.write(f"{forged.text}\n")
    team.promote(2, force=True, why="x")
    assert forged.digest not in team.entries[-1].follows
    team.store.client.delete_model_version(MODEL, "3")
    with pytest.raises(UserError, match="The Boss"):
        team.history(verify=True)


def test_a_fault_of_the_network_is_not_said_to_be_the_log_s(
    team: Team, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(command, "refuse_incomplete", unreachable)
    with pytest.raises(ConnectionError):
        team.promote(1, force=True, why="x")


def test_what_was_verified_here_is_remembered(team: Team, log: Path) -> None:
    """In another clone, say, whose `status` says of a line that it was not."""
    team.workspace.promotions_known.unlink()
    team.history()
    assert not team.workspace.promotions_known.exists(), "who only looks vouches for nothing"
    team.history(verify=True)
    assert {entry.digest for entry in team.entries} <= known_here(team.workspace)
