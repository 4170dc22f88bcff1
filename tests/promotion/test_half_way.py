"""What failed between the alias, the file and MLflow's copy: what is said then is so, and is to be typed as it says."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from promoting import MODEL, Team

from xtts_finetune.core.errors import DiskFull, UserError
from xtts_finetune.core.files import sha256_json
from xtts_finetune.promotion import moving
from xtts_finetune.promotion.command import vouch_lines
from xtts_finetune.promotion.pruning import prune_lines
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import TAG, Entry, Log, keep_intent, kept_intent
from xtts_finetune.tracking.registry import move_champion


@pytest.fixture
def team(team: Team) -> Team:
    """Versions 1 to 4 became champion one after the other; version 5 did not yet."""
    for number in range(1, 6):
        team.register(4.5 - number / 10)
        if 1 < number < 5:
            team.promote(number)
    assert team.champion == 4
    return team


def fail(error: Exception) -> Callable[..., None]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


DATABASE_FULL = MlflowException("(sqlite3.OperationalError) database or disk is full")


@pytest.mark.parametrize("error", [ConnectionError("away"), DATABASE_FULL], ids=["away", "full"])
def test_a_rollback_that_mlflow_was_not_told_of_goes_no_further(
    team: Team, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Typed again it would go back one more: what is to be typed names the version."""
    with monkeypatch.context() as patch:
        patch.setattr(type(team.store.client), "set_model_version_tag", fail(error))
        with pytest.raises((UserError, DiskFull)) as told:
            team.rollback()
    assert "the champion is written down here, but not in MLflow yet" in str(told.value)
    assert "xtts-finetune promote 3, which is champion, makes up for it" in str(told.value)
    assert "type it again" not in str(told.value)
    assert "is the champion already" in team.promote(3)
    assert team.champion == 3
    team.history(verify=True)


def test_nor_does_one_that_was_killed(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.store.client.set_registered_model_alias(MODEL, "champion", "3")
    with monkeypatch.context() as patch:
        patch.setattr(type(team.store.client), "set_model_version_tag", fail(ConnectionError("away")))
        with pytest.raises(UserError, match="xtts-finetune promote 3, which is champion, makes up for it"):
            team.rollback()
    assert team.champion == 3


def test_a_full_disk_behind_the_alias_says_who_is_champion(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target) == team.workspace.promotions:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskFull, match="version 3 is champion now, and that could not be written down"):
            team.rollback()
    assert "is the champion already" in team.promote(3)
    team.history(verify=True)


def silent_from(patch: pytest.MonkeyPatch, team: Team, moves: bool) -> None:
    """The alias moves, or does not, and no answer comes, to this or to what is asked after it."""
    client = type(team.store.client)

    def unanswered(standing_store: object, version: object) -> None:
        if moves:
            move_champion(standing_store, version)  # type: ignore[arg-type]
        patch.setattr(client, "get_registered_model", fail(ConnectionError("timed out")))
        patch.setattr(client, "search_model_versions", fail(ConnectionError("timed out")))
        raise ConnectionError("timed out")

    patch.setattr(moving, "move_champion", unanswered)


def test_where_mlflow_falls_silent_what_was_meant_is_kept(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, and that it was forced, are not lost, where the alias did move."""
    with monkeypatch.context() as patch, pytest.raises(UserError, match="was not moved, as far as is known"):
        silent_from(patch, team, moves=True)
        team.promote(1, force=True, why="It sounds better.")
    team.promote(1)
    assert team.entries[-1].forced
    assert team.entries[-1].why.startswith("It sounds better. (found later")


def test_nor_is_it_said_that_nothing_was_moved(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """One share for both, say."""
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == team.workspace.promotions:
            monkeypatch.setattr(moving, "find_champion", fail(ConnectionError("timed out")))
            raise OSError(errno.EACCES, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="MLflow does not say whether version 3 became champion"):
        team.rollback(why="too fast")
    kept = kept_intent(team.workspace)
    assert kept
    assert (kept.champion, kept.why) == (3, "too fast")


def test_what_git_brings_while_the_alias_moves_stays(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = team.entries[0].model_copy(update={"who": "A colleague", "champion_sha256": 64 * "f", "follows": []})

    def pull(store: object, version: object) -> None:
        Log.read(team.workspace.promotions).appended(pulled).write()
        move_champion(store, version)  # type: ignore[arg-type]

    monkeypatch.setattr(moving, "move_champion", pull)
    team.promote(5)
    assert "A colleague" in [entry.who for entry in team.entries]
    assert [entry.champion for entry in team.entries if entry.champion == 5] == [5]


def test_what_git_leaves_half_merged_while_the_alias_moves(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is to be mended by hand; who is champion by then is said."""
    before = team.workspace.promotions.read_text()

    def pull(store: object, version: object) -> None:
        team.workspace.promotions.write_text(f"<<<<<<< HEAD\n{before}")
        move_champion(store, version)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(moving, "move_champion", pull)
        with pytest.raises(UserError, match="version 5 is champion now, and that could not be written down"):
            team.promote(5, why="better")
    assert team.champion == 5
    team.workspace.promotions.write_text(before)
    team.promote(5)
    assert team.entries[-1].why.startswith("better")
    team.history(verify=True)


def test_an_intent_that_cannot_be_removed_is_no_fault(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a virus scanner holds it; it is written down by then, and counts no more."""
    unlink = Path.unlink

    def held(path: Path, missing_ok: bool = False) -> None:
        if path == team.workspace.promotion_begun:
            raise PermissionError(errno.EACCES, "in use", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", held)
        team.promote(5, why="new")
        team.rollback()
    assert [entry.why for entry in team.entries[-2:]] == ["new", ""]
    team.history(verify=True)


def test_a_move_that_was_meant_and_not_made_may_be_somebody_else_s_later(team: Team) -> None:
    """Killed before the alias moved; then it is moved there on MLflow's page."""
    meant = team.entries[-1].model_copy(
        update={"before": 4, "champion": 5, "why": "better", "follows": [team.entries[-1].digest]}
        | {"before_sha256": team.entries[-1].champion_sha256, "champion_sha256": weights(team, 5)}
    )
    keep_intent(team.workspace, meant)
    team.store.client.set_registered_model_alias(MODEL, "champion", "5")
    team.promote(5)
    assert "if nobody moved it there since" in team.entries[-1].why


def weights(team: Team, number: int) -> str:
    found: str = team.store.client.get_model_version(MODEL, str(number)).tags[WEIGHTS_TAG]
    return found


# What nobody may take for gone, or for somebody's own.


def test_what_was_written_here_is_not_forgotten_where_it_cannot_be_read(team: Team) -> None:
    known = team.workspace.promotions_known
    aside = known.rename(known.with_suffix(".aside"))
    known.mkdir()
    for act in (lambda: team.promote(5), team.rollback, team.history):
        with pytest.raises(UserError, match=r"promotions\.json\n +cannot be read: Is a directory"):
            act()
    assert team.champion == 4
    known.rmdir()
    aside.rename(known)
    team.promote(5)


def test_a_lock_of_another_user(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.workspace.promotions_lock.unlink(missing_ok=True)
    team.workspace.promotions_lock.mkdir()
    with pytest.raises(UserError, match=r"promotions\.lock\n +cannot be held"):
        team.promote(5)


def plan(team: Team) -> str:
    return "\n".join(prune_lines(team.workspace, "keep=1", yes=False))


def test_former_champions_stay_where_the_file_lacks_what_led_to_them(team: Team) -> None:
    """In a clone that has not pulled, after a version went with the copy that the others follow."""
    team.store.client.delete_model_version(MODEL, "2")
    team.workspace.promotions.unlink()
    said = plan(team)
    for number in (3, 4):
        assert f"stays  version {number}" in said
    assert "goes  version" not in said


def test_former_champions_stay_whose_tags_nobody_here_can_read(team: Team) -> None:
    """A later program wrote them, in a clone without the log; the first has no tag of its own."""
    for entry in team.entries:
        number = str(entry.champion)
        team.store.client.delete_model_version_tag(MODEL, number, entry.tag)
        if number != "3":  # which the next names as the one before
            team.store.client.set_model_version_tag(MODEL, number, *of_a_later_program(entry))
    team.workspace.promotions.unlink()
    said = plan(team)
    for number in ("1", "2", "3"):
        assert re.search(f"stays  version {number}.*: was champion", said)


def test_a_former_champion_stays_whatever_its_tag_says(team: Team) -> None:
    team.store.client.set_model_version_tag(MODEL, "3", WEIGHTS_TAG, 64 * "0")
    assert "stays  version 3" in plan(team)


@pytest.mark.parametrize("number", [1, 3])
def test_an_exchanged_tag_of_any_that_was_champion_is_found(team: Team, number: int) -> None:
    """The first became it without an entry of its own."""
    was = weights(team, number)
    team.store.client.set_model_version_tag(MODEL, str(number), WEIGHTS_TAG, 64 * "0")
    before = team.entries
    for act in (lambda: team.promote(5), team.rollback, lambda: team.history(verify=True)):
        with pytest.raises(UserError, match="is not that of the weights which were promoted") as told:
            act()
        assert f"version {number}: tag {WEIGHTS_TAG}" in str(told.value)
        assert was in str(told.value)
    assert team.entries == before


def test_what_a_tag_says_does_not_reach_the_terminal(team: Team) -> None:
    made = team.entries[-1].model_copy(update={"champion_sha256": "\x1b[2J", "who": "Mallory"})
    team.store.client.set_model_version_tag(MODEL, "4", made.tag, made.text)
    with pytest.raises(UserError, match="is not that of the weights") as told:
        team.promote(5)
    assert "\x1b" not in str(told.value)
    assert "made by hand can be deleted" in str(told.value)
    team.store.client.delete_model_version_tag(MODEL, "4", made.tag)
    team.promote(5)


def of_a_later_program(entry: Entry) -> tuple[str, str]:
    """Its tag, and its text."""
    content = {**json.loads(entry.text), "mood": "good", "follows": [entry.digest]}
    del content["sha256"]
    digest = sha256_json(content)
    return f"{TAG}{digest[:16]}", json.dumps({**content, "sha256": digest})


def test_an_entry_of_a_later_program_stays(team: Team) -> None:
    """It is no rubbish that could be deleted, and who does not know it knows not who is champion."""
    tag, text = of_a_later_program(team.entries[-1])
    team.store.client.set_model_version_tag(MODEL, "4", tag, text)
    for act in (lambda: team.promote(5), team.rollback, lambda: team.history(verify=True)):
        with pytest.raises(UserError, match="was written by another version of xtts-finetune") as told:
            act()
        assert "delete the tag" not in str(told.value)


def test_a_line_of_a_later_program_is_no_damage(team: Team) -> None:
    """As git brings it."""
    _, text = of_a_later_program(team.entries[-1])
    with team.workspace.promotions.open("a", encoding="utf-8") as stream:
        stream.write(f"{text}\n")
    with pytest.raises(UserError, match="was written by another version of xtts-finetune") as told:
        team.promote(5)
    assert "move the file away" not in str(told.value)


def test_a_version_that_mlflow_copied_from_another_model_is_no_renamed_one(team: Team) -> None:
    """With its tags, which say nothing of this model."""
    team.store.client.copy_model_version(f"models:/{MODEL}/3", "prod")
    text = team.workspace.params.read_text().replace(f"model_name: {MODEL}", "model_name: prod")
    team.workspace.params.write_text(text)
    team.workspace.promotions.unlink()
    assert "nothing was promoted yet" in team.history()
    with pytest.raises(UserError, match="is no entry of the log"):
        team.history(verify=True)


def rename(team: Team) -> None:
    team.store.client.rename_registered_model(MODEL, "anna")
    text = team.workspace.params.read_text().replace(f"model_name: {MODEL}", "model_name: anna")
    team.workspace.params.write_text(text)


def test_a_model_that_was_renamed_keeps_its_history(team: Team) -> None:
    """By the log of the new name there was nobody before: a rollback would go to the first version."""
    rename(team)
    assert "not written down" not in team.history(), "the next command refuses"
    for act in (team.rollback, lambda: team.history(verify=True)):
        with pytest.raises(UserError, match=f"is of the model {MODEL}: was it renamed") as told:
            act()
        assert "delete the tag" not in str(told.value)


def test_a_line_in_doubt_does_not_say_who_is_champion(team: Team) -> None:
    last = team.entries[-1]
    forged = last.model_copy(
        update={"before": 4, "champion": 3, "who": "Mallory", "follows": [last.digest]}
        | {"before_sha256": last.champion_sha256, "champion_sha256": weights(team, 3)}
    )
    Log(team.workspace.promotions, [*team.entries, forged]).write()
    said = team.history()
    assert "NOT KNOWN to be genuine" in said
    assert "not written down" not in said


def test_who_answers_for_a_line_is_told_of_those_before_it(team: Team) -> None:
    last, made = team.entries[-1], list[Entry]()
    for who in ("First", "Second"):
        made.append(last.model_copy(update={"who": who, "follows": [(made or [last])[-1].digest]}))
    Log(team.workspace.promotions, [*team.entries, *made]).write()
    said = "\n".join(vouch_lines(team.workspace, made[1].digest))
    assert said.count("taken for genuine") == 2
    assert said.index("First") < said.index("Second")


def test_who_git_says_commits(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in CI, where no configuration names anybody."""
    monkeypatch.setenv("GIT_AUTHOR_NAME", "CI Bot")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ci@example.org")
    team.promote(5)
    assert team.entries[-1].who == "CI Bot <ci@example.org>"


def test_a_database_that_nobody_may_look_at(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def refuse(path: object, *arguments: object, **named: object) -> os.stat_result:
        if str(path) == str(team.workspace.tracking_db):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **named)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", refuse)
    assert "MLflow is not known" in team.history()
