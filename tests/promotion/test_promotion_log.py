"""The log of promotions: a line that was changed, taken out or doubled is found."""

from pathlib import Path

import pytest
from promoting import Team

from xtts_finetune.core.errors import UserError
from xtts_finetune.tracking.promotions import Entry


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
