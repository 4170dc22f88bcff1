"""The log is a graph, MLflow forgets, clocks differ: what stands all the same."""

import json

import pytest
from promoting import MODEL, Team

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_json, write_json
from xtts_finetune.core.params import load_params
from xtts_finetune.promotion import moving
from xtts_finetune.report.registration import Registration
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import TAG, Entry, Log, remember


@pytest.fixture
def team(team: Team) -> Team:
    """With five versions, each better than the one before; version 1 is champion."""
    for number in range(5):
        team.register(4.5 - number / 10)
    return team


def steps(team: Team) -> list[tuple[str, int | None, int]]:
    return [(entry.action, entry.before, entry.champion) for entry in team.entries]


def point(team: Team, number: int) -> None:
    team.store.client.set_registered_model_alias(MODEL, "champion", str(number))


def delete(team: Team, number: int) -> None:
    """As on MLflow's page, which takes the aliases first."""
    for alias in team.store.client.get_model_version(MODEL, str(number)).aliases:
        team.store.client.delete_registered_model_alias(MODEL, alias)
    team.store.client.delete_model_version(MODEL, str(number))


@pytest.mark.parametrize("hours", [(9, 10, 11), (11, 10, 9), (10, 10, 10)])
def test_a_clone_that_has_not_pulled_writes_what_it_can_read(team: Team, hours: tuple[int, ...]) -> None:
    """Whatever the clocks say."""

    class Clock:
        hour = 0

        @classmethod
        def now(cls, zone: object) -> "Clock":
            return cls()

        def strftime(self, form: str) -> str:
            return f"2026-11-29T{self.hour:02}:00:00Z"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving, "datetime", Clock)
        for hour, number in zip(hours, (2, 3, 4), strict=True):
            Clock.hour = hour
            team.promote(number)
    assert steps(team) == [("promote", 1, 2), ("promote", 2, 3), ("promote", 3, 4)]
    written = team.entries
    team.workspace.promotions.unlink()
    team.promote(5)
    assert team.entries[:3] == written
    assert steps(team)[3] == ("promote", 4, 5)
    team.history(verify=True)


def test_after_a_version_was_deleted_nothing_cries(team: Team) -> None:
    team.promote(2)
    team.promote(3)
    delete(team, 2)
    said = team.history(verify=True)
    assert "1 entry: it is as it was written" in said
    assert "1 of versions that were deleted, and MLflow's copies with them" in said
    assert "not in this registry" not in said
    assert "version 2, champion before, was deleted" in team.rollback()
    assert team.champion == 1
    team.history(verify=True)


def test_a_deleted_version_takes_its_entries_from_clones_without_the_log(team: Team) -> None:
    """What follows them is not written: it could not be read."""
    team.promote(2)
    team.promote(3)
    whole = team.workspace.promotions.read_bytes()
    delete(team, 2)
    team.workspace.promotions.unlink()
    with pytest.raises(UserError, match=r"follows an entry that neither registry/promotions\.jsonl nor MLflow has"):
        team.history(verify=True)
    team.promote(4)
    assert steps(team) == [("found", 1, 3), ("promote", 3, 4)]
    own = team.workspace.promotions.read_bytes()
    team.workspace.promotions.write_bytes(whole + own)  # git pull, and both sides kept
    team.promote(5)
    assert len(team.entries[-1].follows) == 2
    team.history(verify=True)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("champion", [3, 5])
def test_of_a_fork_the_alias_decides(team: Team, order: tuple[int, ...], champion: int) -> None:
    team.promote(2)
    team.promote(3)
    first, second = team.entries
    weights = team.store.client.get_model_version(MODEL, "5").tags[WEIGHTS_TAG]
    third = second.model_copy(update={"champion": 5, "champion_sha256": weights})
    Log(team.workspace.promotions, [(first, second, third)[place] for place in order]).write()
    remember(team.workspace, [third.digest])  # as if another promote here had written it
    point(team, champion)
    assert "not written down" not in team.history()
    team.rollback()
    assert team.champion == 2
    assert steps(team)[3] == ("rollback", champion, 2)
    assert set(team.entries[3].follows) == {second.digest, third.digest}


def test_without_a_champion_the_last_that_is_left_stands_for_it(team: Team) -> None:
    team.promote(4)
    team.promote(5)
    delete(team, 5)
    with pytest.raises(UserError, match="does not pass: eval Mel CE"):
        team.promote(3)
    assert "version 4 was it, by the log" in team.promote(4)
    assert steps(team)[-1] == ("promote", None, 4)


def test_without_any_that_was_it_takes_force(team: Team) -> None:
    delete(team, 1)
    with pytest.raises(UserError, match="does not pass: champion"):
        team.promote(3)
    team.promote(3, force=True, why="The others are of other speakers.")
    assert team.champion == 3
    assert "FORCED past champion" in team.history(verify=True)


def test_registering_passes_no_gate(team: Team) -> None:
    delete(team, 1)
    assert team.register(9.9) == 6
    assert "champion" not in team.store.client.get_registered_model(MODEL).aliases


def test_a_first_promotion_that_was_killed_is_written_by_the_next_command(team: Team) -> None:
    point(team, 2)
    assert "nothing is written yet, and the first was version 1" in team.history()
    assert "is the champion already" in team.promote(2)
    assert steps(team) == [("found", 1, 2)]
    team.history(verify=True)
    team.rollback()
    assert team.champion == 1


@pytest.mark.parametrize("field", [{"time": 5}, {"rules": [{}]}, {"rules": None}, {"action": "x"}])
def test_tags_that_somebody_made_are_not_taken_over(team: Team, field: dict[str, object]) -> None:
    team.promote(2)
    made = {**team.entries[0].model_dump(), **field}
    digest = sha256_json(made)
    text = json.dumps({**made, "sha256": digest})
    team.store.client.set_model_version_tag(MODEL, "2", f"{TAG}{digest[:16]}", text)
    team.promote(3)
    assert steps(team) == [("promote", 1, 2), ("promote", 2, 3)]
    with pytest.raises(UserError, match="is no entry of the log"):
        team.history(verify=True)


def test_a_tag_that_follows_nothing_is_not_taken_over(team: Team) -> None:
    team.promote(2)
    made: Entry = team.entries[0].model_copy(update={"who": "Mallory", "follows": ["f00d"]})
    team.store.client.set_model_version_tag(MODEL, "2", made.tag, made.text)
    team.promote(3)
    assert "Mallory" not in team.workspace.promotions.read_text()
    with pytest.raises(UserError, match=r"follows an entry that neither .* Mallory"):
        team.history(verify=True)


def test_status_says_who_is_champion_in_mlflow(team: Team) -> None:
    """Whatever moved it, and whatever the log says."""
    params = load_params(team.workspace.params)
    receipt = {"name": MODEL, "version": 5, "champion": 5, "aliases": ["candidate", "champion"]}
    weights = team.store.client.get_model_version(MODEL, "5").tags[WEIGHTS_TAG]
    write_json(team.workspace.registration, {**receipt, "model_sha256": weights})
    team.workspace.model("phase1").mkdir(parents=True)
    write_json(team.workspace.model("phase1") / "model.json", {"sha256": weights})

    def said() -> str:
        return str(Registration.read(team.workspace, params)).partition(", the weights of")[0]

    point(team, 5)
    assert said() == f"{MODEL} version 5 (candidate, champion)"
    point(team, 1)
    assert said() == f"{MODEL} version 5 (candidate)"
    team.promote(4)
    team.workspace.promotions.write_text("{}\n")
    assert said() == f"{MODEL} version 5 (candidate)"
    delete(team, 5)
    assert said().startswith(f"nothing any more: {MODEL} version 5 was deleted")
    assert not Registration.read(team.workspace, params).is_to_be_promoted
    team.workspace.tracking_db.rename(team.workspace.tracking_db.with_suffix(".away"))
    assert said().endswith("as far as this clone knows, whose log of promotions is damaged (xtts-finetune history))")
