"""Who becomes champion, who does not, the way back, and what is written down of it."""

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from making import workspaces
from promoting import MODEL, Team

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.promotion import command, examination
from xtts_finetune.tracking.promotions import TAG
from xtts_finetune.tracking.versions import Versions


def refused(team: Team, version: int | None = None, force: bool = False, why: str = "") -> str:
    before = team.champion
    with pytest.raises(UserError) as error:
        team.promote(version, force, why)
    assert team.champion == before
    return str(error.value)


@contextmanager
def killed_before_the_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The alias has moved, and nothing is written down."""

    @contextmanager
    def killed(_: command.Log) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(command.Log, "written", killed)
        yield


def test_what_is_better_becomes_champion(team: Team) -> None:
    team.register(4.1)
    team.register(4.0, text_ce=3.05)
    said = team.promote()
    assert team.champion == 2
    assert "figures: as evaluated, on the same eval split" in said
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "eval Mel CE 4.000 4.100 below pass" in rows
    assert "eval Text CE 3.050 3.000 at most 0.1 above pass" in rows
    [entry] = team.entries
    assert (entry.action, entry.before, entry.champion, entry.forced) == ("promote", 1, 2, False)
    assert [(rule.name, rule.passed) for rule in entry.rules] == [("eval Mel CE", True), ("eval Text CE", True)]
    [tag] = [tag for tag in team.store.client.get_model_version(MODEL, "2").tags if tag.startswith(TAG)]
    assert team.store.client.get_model_version(MODEL, "2").tags[tag] == entry.text
    assert "version 2: the best of phase2, Mel CE 4.000: is the champion already" in team.promote().replace(
        " (candidate, champion)", ""
    )
    assert len(team.entries) == 1


@pytest.mark.parametrize(
    ("mel_ce", "text_ce", "rules"),
    [
        (4.2, 3.0, "eval Mel CE"),
        (4.1, 3.09, "eval Mel CE"),  # as good is not better
        (4.0, 3.2, "eval Text CE"),
        (4.2, 3.2, "eval Mel CE, eval Text CE"),
    ],
)
def test_what_is_worse_does_not(team: Team, mel_ce: float, text_ce: float, rules: str) -> None:
    team.register(4.1)
    team.register(mel_ce, text_ce)
    said = refused(team)
    assert f"version 2\n      does not pass: {rules}\n" in said
    assert '--force --why "…"' in said
    assert team.entries == []


def test_margins_are_of_params_yaml(team: Team) -> None:
    text = team.workspace.params.read_text().replace("mel_ce_margin: 0.0 ", "mel_ce_margin: 0.05")
    team.workspace.params.write_text(text.replace("text_ce_tolerance: 0.1", "text_ce_tolerance: 1.0"))
    team.register(4.1)
    team.register(4.06, 3.9)
    assert "does not pass: eval Mel CE\n" in refused(team)
    team.register(4.04, 3.9)
    team.promote()
    assert team.champion == 3


def test_by_force_with_a_reason_which_is_written_down(team: Team) -> None:
    team.register(4.1)
    team.register(4.2)
    assert "needs a reason" in refused(team, force=True)
    team.promote(force=True, why="It sounds like her\u2028at last.")
    assert team.champion == 2
    [entry] = team.entries
    assert entry.forced
    assert "FORCED past eval Mel CE" in team.history()
    assert "It sounds like her" in team.history(verify=True)


def test_forced_is_only_what_did_not_pass(team: Team) -> None:
    team.register(4.1)
    team.register(4.0)
    team.promote(force=True, why="to be sure")
    assert not team.entries[0].forced


def test_it_goes_back_step_by_step(team: Team) -> None:
    for mel_ce in (4.3, 4.2, 4.1):
        team.register(mel_ce)
        team.promote()
    assert team.champion == 3
    team.rollback("it hisses")
    assert team.champion == 2
    team.promote(3)
    team.rollback()
    team.rollback()
    assert team.champion == 1
    with pytest.raises(UserError, match="the log knows no champion before this one"):
        team.rollback()
    assert [(entry.before, entry.champion) for entry in team.entries] == [
        (1, 2),
        (2, 3),
        (3, 2),
        (2, 3),
        (3, 2),
        (2, 1),
    ]
    assert '"it hisses"' in team.history(verify=True)


def test_what_was_moved_in_mlflow_is_found_and_written_down(team: Team) -> None:
    for mel_ce in (4.3, 4.2, 4.1):
        team.register(mel_ce)
    team.promote(2)
    team.store.client.set_registered_model_alias(MODEL, "champion", "1")
    assert "not written down: the champion is version 1, by the log's last line version 2" in team.history()
    team.promote(3)
    assert [(entry.action, entry.before, entry.champion) for entry in team.entries] == [
        ("promote", 1, 2),
        ("found", 2, 1),
        ("promote", 1, 3),
    ]
    team.rollback()
    assert team.champion == 1


def test_killed_between_the_alias_and_the_log(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.register(4.3)
    team.register(4.2)
    team.promote()
    team.register(4.1)

    with killed_before_the_log(monkeypatch):
        team.promote(force=True, why="It sounds better.")
    assert team.champion == 3
    team.rollback()
    assert team.champion == 2
    assert [entry.action for entry in team.entries] == ["promote", "promote", "rollback"]
    assert team.entries[1].why == (
        "It sounds better. (found later: the command was killed before it had written this down, "
        "if nobody moved it there since)"
    )
    team.history(verify=True)


def test_killed_there_and_moved_on_by_other_means(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be written is not what happened last."""
    for mel_ce in (4.3, 4.2, 4.1):
        team.register(mel_ce)
    with killed_before_the_log(monkeypatch):
        team.promote(2)
    team.store.client.set_registered_model_alias(MODEL, "champion", "3")
    team.rollback()
    assert [(entry.action, entry.champion) for entry in team.entries] == [("found", 3), ("rollback", 1)]
    team.promote(2)
    team.store.client.set_registered_model_alias(MODEL, "champion", "1")
    team.promote(3)
    assert [entry.action for entry in team.entries[2:]] == ["promote", "found", "promote"]
    team.history(verify=True)


def test_a_clone_on_the_same_registry_knows_of_the_others(team: Team, tmp_path: Path) -> None:
    team.register(4.3)
    team.register(4.2)
    team.promote()
    other = tmp_path / "elsewhere"
    team.workspace.promotions.rename(other)  # as in a clone that has yet to pull it
    assert "champion version 1 → version 2" in team.history()
    with pytest.raises(UserError, match="lacks an entry that MLflow has"):
        team.history(verify=True)
    team.register(4.1)
    team.promote()
    assert [(entry.before, entry.champion) for entry in team.entries] == [(1, 2), (2, 3)]


def test_a_log_of_another_registry_says_nothing_of_these_versions(team: Team, tmp_path: Path) -> None:
    """Its versions have the same numbers."""
    team.register(4.3)
    team.register(4.2)
    team.promote()
    foreign = team.entries[0].model_copy(update={"champion_sha256": "f00d"})
    command.Log(team.workspace.promotions, [foreign]).write()
    client = team.store.client
    for tag in client.get_model_version(MODEL, "2").tags:
        if tag.startswith(TAG):
            client.delete_model_version_tag(MODEL, "2", tag)
    assert "(of versions that are not in this registry)" in team.history()
    team.rollback()
    assert [(each.action, each.before, each.champion) for each in team.entries[1:]] == [
        ("found", 1, 2),
        ("rollback", 2, 1),
    ]
    with pytest.raises(UserError, match="the log knows no champion before this one"):
        team.rollback()


def test_two_at_once_end_in_one_of_the_two_and_the_log_has_what_happened(team: Team) -> None:
    team.register(4.3)
    team.register(4.2)
    team.register(4.1)
    outcomes = list[str]()

    def promote(version: int) -> None:
        try:
            Team(team.workspace).promote(version, force=True, why="mine")
            outcomes.append(f"version {version}")
        except UserError as error:
            assert "another promote or rollback is at work here" in str(error)

    threads = [threading.Thread(target=promote, args=[version]) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes
    assert f"version {team.champion}" == f"version {team.entries[-1].champion}"
    assert len(team.entries) == len(outcomes)
    team.history(verify=True)


def test_what_cannot_be_measured_does_not_pass(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "measure", lambda *_: {"mel_ce": 4.0, "text_ce": 3.0})
    team.register(4.3, split=None)
    team.register(4.2)
    shutil.rmtree(files_of(team, 1))
    assert "does not pass: eval Mel CE, eval Text CE" in refused(team)
    assert "its files cannot be had" in team.promote(force=True, why="The old one's disk is gone.")
    assert team.champion == 2
    assert [rule.passed for rule in team.entries[0].rules] == [False, False]


@pytest.mark.parametrize("wanted", [7, None])
def test_there_is_no_such_version(team: Team, wanted: int | None) -> None:
    if wanted:
        team.register(4.3)
    with pytest.raises(UserError) as error:
        team.promote(wanted)
    expected = "there is no such version; there is:" if wanted else "no version of xtts-finetune is registered"
    assert expected in str(error.value)


def test_a_name_with_line_ends_makes_no_second_entry(team: Team) -> None:
    team.register(4.3)
    team.register(4.2)
    team.promote(why='quick\n{"action": "promote"}\r\n')
    assert len(team.entries) == 1
    assert len(team.workspace.promotions.read_text().splitlines()) == 1
    assert "\n" not in team.history()


def test_nothing_to_go_back_to_where_nothing_is_registered(team: Team) -> None:
    with pytest.raises(UserError, match=r"nothing to go back to\n.*\n.*no version of .* is registered"):
        team.rollback()


@pytest.fixture
def three(team: Team) -> Team:
    """Each better than the one before; the second is champion, after the first."""
    for mel_ce in (4.2, 4.1, 4.0):
        team.register(mel_ce)
    team.promote(2)
    return team


def files_of(team: Team, number: int) -> Path:
    versions = Versions.of(team.store, MODEL)
    folder = versions.own_folder(versions.find(str(number), ""))
    assert folder
    return folder


@pytest.mark.parametrize("damage", ["weights", "base", "all", "changed"])
def test_a_version_whose_files_are_gone_becomes_champion_by_no_means(three: Team, damage: str) -> None:
    """Its figures stand in its tags: by them alone it would pass."""
    folder = files_of(three, 3)
    if damage == "all":
        shutil.rmtree(folder)
    elif damage == "base":
        shutil.rmtree(folder / "base")
    else:
        (folder / "model.safetensors").unlink()
    if damage == "changed":
        (folder / "model.safetensors").write_bytes(b"other weights")
    for force, why in (False, ""), (True, "It was good once"):
        said = refused(three, 3, force, why)
        assert "the registered model cannot be used\n" in said
        assert re.search(r"xtts-finetune reproduce 3 says, then: \S*dvc repro -s -f evaluate", said)


def test_there_is_no_going_back_to_one_either(three: Team) -> None:
    three.promote(3)
    shutil.rmtree(files_of(three, 2))
    said = three.rollback()
    assert "version 2, champion before, is not whole: its files cannot be had" in said
    assert three.champion == 1


def test_no_answer_is_no_loss(three: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer just then: the version before is not passed over for it."""
    three.promote(3)

    def unanswered(*_: object) -> dict[str, int]:
        raise UserError("the registered model cannot be used", [Problem("version 2", "timed out", "type it again")])

    with monkeypatch.context() as patch, pytest.raises(UserError, match="timed out"):
        patch.setattr(Versions, "sizes", unanswered)
        three.rollback()
    assert three.champion == 3
    three.rollback()
    assert three.champion == 2


def test_a_rollback_that_was_killed_and_is_typed_again(three: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes neither further than was asked for, nor back to what it was to lead away from."""
    three.promote(3)

    with killed_before_the_log(monkeypatch):
        three.rollback()
    assert three.champion == 2
    assert "it was champion before; to go further back, type it again" in three.rollback()
    assert three.champion == 2
    three.rollback()
    assert three.champion == 1
    three.history(verify=True)


def test_a_clone_with_a_registry_of_its_own_has_the_same_versions(
    three: Team, tmp_path: Path, empty_database: Path
) -> None:
    """Equal runs give equal weights: by number and SHA-256 they cannot be told apart."""
    clone = Team(workspaces.tracked(tmp_path / "clone", empty_database))
    shutil.copy(three.workspace.params, clone.workspace.params)
    for mel_ce in (4.2, 4.1, 4.0):
        clone.register(mel_ce)
    assert files_of(clone, 2).joinpath("model.safetensors").read_bytes() == (
        files_of(three, 2).joinpath("model.safetensors").read_bytes()
    )
    shutil.copytree(three.workspace.promotions.parent, clone.workspace.promotions.parent)
    assert clone.champion == 1
    with pytest.raises(UserError, match="nothing to go back to"):
        clone.rollback()
    said = clone.history(verify=True)
    assert "(of versions that are not in this registry)" in said
    assert "in MLflow\n" not in said
    assert "1 of other registries: not held against MLflow; each has the SHA-256 that it says" in said
    clone.promote(3)
    assert [entry.before for entry in clone.entries] == [1, 1]
    clone.rollback()
    assert clone.champion == 1


def test_verify_says_it_when_the_champion_is_written_down_nowhere(three: Team) -> None:
    three.store.client.set_registered_model_alias(MODEL, "champion", "3")
    with pytest.raises(UserError, match=r"the champion is version 3, by the log's last line version 2\n"):
        three.history(verify=True)
    assert "found: champion version 2 → version 3" in three.promote(3)
    assert "2 entries: each" in three.history(verify=True)


def test_what_the_gate_refuses_still_brings_what_is_lacking(three: Team) -> None:
    """A kill came between the file and MLflow; the next command ends in a refusal."""
    [tag] = [tag for tag in three.store.client.get_model_version(MODEL, "2").tags if tag.startswith(TAG)]
    three.store.client.delete_model_version_tag(MODEL, "2", tag)
    with pytest.raises(UserError, match="the next promote brings it"):
        three.history(verify=True)
    three.register(5.0)
    refused(three)
    assert "1 entry: it is as it was written" in three.history(verify=True)


def test_a_log_that_lost_a_line_gets_it_back_of_mlflow(three: Team) -> None:
    before = three.workspace.promotions.read_bytes()
    three.workspace.promotions.unlink()
    assert "is the champion already" in three.promote(2)
    assert three.workspace.promotions.read_bytes() == before


def test_a_reason_of_two_lines_is_one_in_the_history(three: Team) -> None:
    three.promote(3, why="")
    three.rollback(why="It\nhums\x1b[2J.")
    assert ", by " in three.history().splitlines()[-1]
    assert three.history().splitlines()[-1].endswith('"It hums\N{REPLACEMENT CHARACTER}[2J."')
