"""What happens while a version is measured, and what fails when the alias has moved, or is about to."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from promoting import MODEL, Team

from xtts_finetune.core.errors import UserError
from xtts_finetune.promotion import examination, moving
from xtts_finetune.promotion.examination import Examination
from xtts_finetune.tracking import environment
from xtts_finetune.tracking.promotions import Log


@pytest.fixture
def team(team: Team) -> Team:
    for number in range(4):
        team.register(4.5 - number / 10)
    return team


def while_measured(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Somebody else does `change` before the figures are there."""
    examine = examination.examine

    def slow(*arguments: Any) -> Examination:
        monkeypatch.setattr(examination, "examine", examine)
        change()
        return examine(*arguments)

    monkeypatch.setattr(examination, "examine", slow)


def test_another_became_champion_meanwhile(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    client = team.store.client
    while_measured(monkeypatch, lambda: client.set_registered_model_alias(MODEL, "champion", "4"))
    with pytest.raises(UserError, match=r"the champion changed meanwhile: it is version 4\n.*type it again"):
        team.promote(2)
    assert team.champion == 4
    assert team.entries == []


def test_what_was_pulled_meanwhile_stays(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.promote(2)
    pulled = team.entries[0].model_copy(update={"who": "A colleague", "champion_sha256": "f00d", "follows": []})
    log = Log.read(team.workspace.promotions)
    while_measured(monkeypatch, lambda: log.appended(pulled).write())
    team.promote(3)
    assert [entry.who for entry in team.entries[1:2]] == ["A colleague"]
    assert team.entries[-1].champion == 3
    assert team.entries[-1].follows == [team.entries[0].digest], "what is of other weights is vouched for by nobody"


def test_the_version_was_deleted_meanwhile(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    while_measured(monkeypatch, lambda: team.store.client.delete_model_version(MODEL, "2"))
    with pytest.raises(UserError, match="was deleted meanwhile"):
        team.promote(2)
    assert team.champion == 1


def away(*_: object) -> None:
    """MLflow, when it is."""
    raise ConnectionError


def test_a_tag_that_mlflow_did_not_take_is_brought_later(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="is written down here, but not in MLflow yet"):
        patch.setattr(type(team.store.client), "set_model_version_tag", away)
        team.promote(2)
    assert team.champion == 2
    with pytest.raises(UserError, match="is not there"):
        team.history(verify=True)
    assert "is the champion already" in team.promote(2)  # as the message says
    assert "1 entry: it is as it was written" in team.history(verify=True)


def test_mlflow_is_gone_when_the_alias_is_to_move(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="was not moved"):
        patch.setattr(type(team.store.client), "set_registered_model_alias", away)
        team.promote(2)
    assert team.champion == 1
    assert team.entries == []


def test_nobody_has_a_name(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a uid in a container that no passwd names, without git."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment, "getuser", nameless)
    monkeypatch.setattr(moving.subprocess, "run", no_git)
    monkeypatch.setattr(environment.os, "getuid", lambda: 4242)
    team.promote(2)
    assert team.entries[0].who == "user 4242"
    team.history(verify=True)


def test_words_in_another_encoding(team: Team) -> None:
    subprocess.run(["git", "init", "-q"], cwd=team.workspace.root, check=True)
    with Path(team.workspace.root, ".git", "config").open("ab") as config:
        config.write('[user]\n\tname = "Zoë"\n\temail = "zoe@example.org"\n'.encode("latin-1"))
    team.promote(2, why=b"sch\xf6n".decode("utf-8", "surrogateescape"))
    [entry] = team.entries
    assert entry.who == "Zo\ufffd <zoe@example.org>"
    assert entry.why == "sch?n"
    team.history(verify=True)


def test_a_reason_has_a_length(team: Team) -> None:
    team.promote(2)
    with pytest.raises(UserError, match="--why"):
        team.rollback("x" * 2001)
    assert team.champion == 2


def test_history_needs_no_mlflow(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.promote(2)

    def away(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(type(team.store.client), "search_model_versions", away)
    said = team.history()
    assert "promoted: champion version 1 → version 2" in said
    assert "MLflow is not known" in said
    with pytest.raises(UserError, match="MLflow does not do what it is asked"):
        team.history(verify=True)


def test_a_number_is_no_alias(team: Team) -> None:
    team.store.client.set_registered_model_alias(MODEL, "2", "4")
    assert "version 2" in team.promote(2)
    assert team.champion == 2


def test_what_was_moved_by_other_means_is_said_to_be_written_down(team: Team) -> None:
    team.store.client.set_registered_model_alias(MODEL, "champion", "2")
    said = team.promote(2)
    assert "is the champion already" in said
    assert "found: champion version 1 → version 2" in said
    assert "written down in registry/promotions.jsonl: commit it" in said
    assert "written down" not in team.promote(2)
