"""Whether the registered version is champion, as far as a checkout's log knows."""

from pathlib import Path

import pytest
from making.params import make_params

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report.registration import Registration
from xtts_finetune.tracking.promotions import Entry, Log, remember
from xtts_finetune.tracking.receipt import Beside, address_digest


@pytest.mark.parametrize(
    ("weights", "registry", "is_champion"),
    [
        ("ours", "", False),
        ("ours", "here", False),
        ("a colleague's", "", True),
        ("ours", "elsewhere", True),
    ],
)
def test_a_log_of_another_registry_takes_no_champion_away(
    tmp_path: Path, weights: str, registry: str, is_champion: bool
) -> None:
    """Its version 1 is another one; or, as equal runs give equal weights, the same in a registry of its own."""
    workspace = Workspace(tmp_path)
    registration = {"name": "anna", "version": 1, "champion": 1, "model_sha256": "ours"}
    workspace.registration.parent.mkdir()
    write_json(workspace.registration, {**registration, "aliases": ["candidate", "champion"]})
    Beside(registry="here").write(workspace, registration)
    params = make_params()
    params = params.model_copy(update={"registry": params.registry.model_copy(update={"model_name": "anna"})})
    entry = Entry(
        time="2026-11-29T01:22:29Z",
        who="A colleague",
        action="promote",
        model="anna",
        before=1,
        before_sha256=weights,
        champion=2,
        champion_sha256="two",
        rules=[],
        forced=False,
        why="",
        follows=[],
        registry=registry,
    )
    Log(workspace.promotions, [entry]).write()
    assert Registration.read(workspace, params).is_to_be_promoted != is_champion


@pytest.mark.parametrize("champion", [None, 1, 2])
def test_a_receipt_of_before_weights_were_written_down(tmp_path: Path, champion: int | None) -> None:
    """Of a server: the number is all there is to go by."""
    workspace, params = Workspace(tmp_path), make_params()
    receipt = {"name": params.registry.model_name, "version": 2, "champion": champion, "aliases": ["candidate"]}
    workspace.registration.parent.mkdir()
    write_json(workspace.registration, receipt)
    registration = Registration.read(workspace, params)
    assert ("champion" in str(registration)) == (champion == 2)
    assert registration.is_to_be_promoted == (champion != 2)
    assert registration.champion_weights is None


def test_a_version_of_a_registry_that_params_do_not_name_any_more(tmp_path: Path) -> None:
    workspace, params = Workspace(tmp_path), make_params()
    receipt = {"name": "xtts-finetune", "version": 1, "champion": 1, "model_sha256": "ours", "aliases": ["candidate"]}
    workspace.registration.parent.mkdir()
    write_json(workspace.registration, receipt)
    Beside(address=address_digest(None)).write(workspace, receipt)
    assert "under another address" not in str(Registration.read(workspace, params))
    for change in (
        {"tracking": params.tracking.model_copy(update={"uri": "http://127.0.0.1:5000"})},
        {"registry": params.registry.model_copy(update={"model_name": "anna"})},
    ):
        moved = params.model_copy(update=change)
        assert "under another address or name than params.yaml has now" in str(Registration.read(workspace, moved))
        assert not Registration.read(workspace, moved).is_to_be_promoted


def test_an_address_is_the_same_with_another_password() -> None:
    here = address_digest("postgresql://anna:secret@host:5432/mlflow")
    assert here == address_digest("postgresql://anna:other@host:5432/mlflow/")
    assert here != address_digest("postgresql://anna:secret@host:5432/other")
    assert address_digest(None) != here


def entry(before: int, champion: int, follows: list[Entry]) -> Entry:
    return Entry(
        time="2026-11-29T01:22:29Z",
        who="A colleague",
        action="promote",
        model="xtts-finetune",
        before=before,
        before_sha256=f"of {before}",
        champion=champion,
        champion_sha256=f"of {champion}",
        rules=[],
        forced=False,
        why="",
        follows=[each.digest for each in follows],
    )


@pytest.fixture
def evaluated(tmp_path: Path) -> Workspace:
    """Version 4 was registered on a server, where version 2 was champion."""
    workspace = Workspace(tmp_path)
    receipt = {"name": "xtts-finetune", "version": 4, "champion": 2, "model_sha256": "of 4", "aliases": ["candidate"]}
    workspace.registration.parent.mkdir()
    write_json(workspace.registration, receipt)
    workspace.model("phase2").mkdir(parents=True)
    write_json(workspace.model("phase2") / "model.json", {"sha256": "of 4"})
    return workspace


def test_two_that_were_promoted_at_once_do_not_stop_the_log(evaluated: Workspace) -> None:
    one, other = entry(2, 3, []), entry(2, 5, [])
    after = entry(5, 4, [one, other])
    Log(evaluated.promotions, [one, other, after]).write()
    registration = Registration.read(evaluated, make_params())
    assert registration.champion_weights == "of 4"
    assert not registration.is_to_be_promoted


def test_a_line_that_nobody_held_against_mlflow_is_said_to_be_one(evaluated: Workspace) -> None:
    moved = entry(2, 4, [])
    Log(evaluated.promotions, [moved]).write()
    assert "by a line of the log that was not held against MLflow here" in str(Registration.read(evaluated, None))
    remember(evaluated, [moved.digest])
    assert "was not held" not in str(Registration.read(evaluated, None))


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "[" * 100_000, '{"version": 1}', '{"name": "anna"}', "null"),
        *(f'{{"name": "xtts-finetune", "version": 1, {more}}}' for more in ('"aliases": null', '"champion": [2]')),
    ],
)
def test_a_receipt_that_is_damaged(evaluated: Workspace, text: str) -> None:
    evaluated.registration.write_text(text, encoding="utf-8")
    registration = Registration.read(evaluated, make_params())
    assert "reports/registration.json is damaged" in str(registration)
    assert not registration.is_to_be_promoted
    assert registration.champion_weights is None
