"""`xtts-finetune clean --versions keep=N`: whose files go, whose stay, and a kill at every step."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from promoting import MODEL, Team

from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.promotion import pruning
from xtts_finetune.promotion.pruning import prune_lines
from xtts_finetune.report.registration import Registration
from xtts_finetune.tracking import logged_model
from xtts_finetune.tracking.promotions import TAG, Log
from xtts_finetune.tracking.versions import Versions

WEIGHTS = 140_000  # bytes, of each version


@pytest.fixture
def six(team: Team) -> Team:
    """Six versions, each better than the one before; the first is champion, the last candidate."""
    for number in range(6):
        team.register(4.5 - number / 10)
    return team


def prune(team: Team, wanted: str, yes: bool = True) -> str:
    return "\n".join(prune_lines(team.workspace, wanted, yes))


def left(team: Team) -> list[int]:
    return sorted(each.version for each in Versions.of(team.store, MODEL).versions)


def folders(team: Team) -> int:
    """That hold a version's files."""
    return len(list(team.workspace.artifacts.glob("models/*/artifacts/artifacts/model/model.safetensors")))


def held(team: Team) -> int:
    return held_bytes(files_below(team.workspace.artifacts))


def test_the_newest_and_those_with_an_alias_stay(six: Team) -> None:
    before = held(six)
    plan = prune(six, "keep=2", yes=False)
    assert plan.startswith("versions: frees ")
    assert "stays  version 1 (champion): the best of phase2, Mel CE 4.500: named champion" in plan
    assert "stays  version 5: the best of phase2, Mel CE 4.100: one of the newest 2" in plan
    assert "do it: xtts-finetune clean --versions keep=2 --yes" in plan
    assert (left(six), held(six)) == ([1, 2, 3, 4, 5, 6], before)
    assert "version 3: gone" in prune(six, "keep=2")
    assert (left(six), folders(six)) == ([1, 5, 6], 3)
    assert before - held(six) > 3 * WEIGHTS
    assert "nothing to free" in prune(six, "keep=2")


def test_who_ever_was_champion_stays_to_go_back_to(six: Team) -> None:
    for number in (2, 4, 6):
        six.promote(number)
    prune(six, "keep=0")
    assert left(six) == [1, 2, 4, 6]
    for number in (4, 2, 1):
        six.rollback()
        assert six.champion == number
    six.history(verify=True)


def test_who_was_champion_before_the_registry_was_moved_stays(six: Team) -> None:
    """Made anew elsewhere it is another by its time: too much is kept there, not too little."""
    for number in (2, 4, 6):
        six.promote(number)
    moved = [entry.model_copy(update={"registry": "1", "follows": []}) for entry in six.entries]
    for version in Versions.of(six.store, MODEL).versions:
        for tag in [tag for tag in version.tags if tag.startswith(TAG)]:
            six.store.client.delete_model_version_tag(MODEL, str(version.version), tag)
    Log(six.workspace.promotions, moved).write()
    prune(six, "keep=0")
    assert left(six) == [1, 2, 4, 6]


def test_a_file_that_is_linked_elsewhere_keeps_its_bytes(six: Team) -> None:
    linked = {}
    for number, weights in enumerate([*six.workspace.artifacts.rglob("model.safetensors")]):
        place = six.workspace.root / f"{number}.safetensors"
        os.link(weights, place)
        linked[place] = weights.read_bytes()
    before = held_bytes(files_below(six.workspace.root))
    promised = re.match(r"versions: frees ([\d.]+) kB", prune(six, "keep=1", yes=False))
    prune(six, "keep=1")
    assert left(six) == [1, 6]
    assert all(place.read_bytes() == content for place, content in linked.items())
    assert promised and float(promised[1]) * 1e3 < WEIGHTS  # of MLflow's own files alone, of four versions
    assert before - held_bytes(files_below(six.workspace.root)) < WEIGHTS


class Killed(BaseException):
    """In the place of kill -9."""


@pytest.mark.parametrize(
    ("step", "others"), [("set_logged_model_tags", 5), ("delete_model_version", 5), ("delete_logged_model", 4)]
)
@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
def test_killed_it_goes_on(six: Team, monkeypatch: pytest.MonkeyPatch, step: str, others: int, is_before: bool) -> None:
    """No version is without its files at any moment, and none of the bytes stay behind."""
    client = type(six.store.client)
    done: Callable[..., Any] = getattr(client, step)

    def killed(*arguments: Any, **named: Any) -> None:
        if not is_before:
            done(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(client, step, killed)
        prune(six, "keep=4")
    versions = Versions.of(six.store, MODEL)
    assert all(
        (folder / "model.safetensors").is_file() for each in versions.versions if (folder := own(versions, each))
    )
    prune(six, "keep=4")
    assert (left(six), folders(six)) == ([1, 3, 4, 5, 6], 5)


def own(versions: Versions, version: Any) -> Path:
    folder = versions.own_folder(version)
    assert folder
    return folder


def test_weights_that_are_registered_again_while_they_go(six: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is evaluated again whose version a killed clean was at: it gets files of its own."""
    run_id = six.store.client.get_model_version(MODEL, "2").run_id
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(logged_model, "discard", half_way)
        prune(six, "keep=4")
    assert left(six) == [1, 3, 4, 5, 6]
    assert six.register(4.4, run_id=run_id) == 7  # the figures, and so the weights, of version 2
    prune(six, "keep=5")
    assert (left(six), folders(six)) == ([1, 3, 4, 5, 6, 7], 6)


def test_a_version_that_is_wanted_again_after_a_kill_keeps_its_files(
    six: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill came when it was marked as going, and still named."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(six.store.client), "delete_model_version", killed)
        prune(six, "keep=4")
    six.promote(2)
    prune(six, "keep=4")
    assert (left(six), folders(six)) == ([1, 2, 3, 4, 5, 6], 6)


def half_way(folder: Path) -> None:
    [weights] = folder.rglob("model.safetensors")
    weights.unlink()
    raise Killed


def test_a_version_that_is_promoted_meanwhile_stays(six: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = pruning.delete_version

    def first(*arguments: Any) -> None:
        monkeypatch.setattr(pruning, "delete_version", delete)
        six.store.client.set_registered_model_alias(MODEL, "best-for-books", "4")
        delete(*arguments)

    monkeypatch.setattr(pruning, "delete_version", first)
    assert "version 4 was named meanwhile, and stays" in prune(six, "keep=1")
    assert left(six) == [1, 4, 6]


def test_files_in_a_folder_of_somebody_else_are_not_touched(six: Team, tmp_path: Path) -> None:
    foreign = tmp_path / "theirs"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"theirs")
    six.store.client.create_model_version(MODEL, foreign.as_uri())
    for number in (8, 9):
        six.register(3.9 - number / 10)
    assert "its files are not where this project puts them" in prune(six, "keep=1")
    assert 7 in left(six)
    assert (foreign / "model.safetensors").read_bytes() == b"theirs"


def test_files_that_another_version_has_too_are_not_touched(six: Team) -> None:
    """As MLflow's pages make them: the same files registered once more, or copied to a model of another name."""
    versions = Versions.of(six.store, MODEL)
    two, three = (next(each for each in versions.versions if each.version == number) for number in (2, 3))
    six.store.client.create_model_version(MODEL, versions.address(two))
    six.store.client.create_registered_model("prod")
    six.store.client.create_model_version("prod", "models:/xtts-finetune/3", model_id=None)
    for number in (8, 9):
        six.register(3.9 - number / 10)
    said = prune(six, "keep=1")
    assert "its files are those of xtts-finetune version 7, too" in said
    assert "its files are those of prod version 1, too" in said
    assert left(six) == [1, 2, 3, 7, 9]
    assert all((own(versions, each) / "model.safetensors").is_file() for each in (two, three))


def test_where_mlflow_cannot_delete_the_version_stays(six: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the version is taken from the list."""
    monkeypatch.setattr(logged_model, "_own_folder", lambda store, model: None)
    monkeypatch.setattr(type(six.store), "artifact_repository", lambda store, address: None)
    with pytest.raises(UserError, match="MLflow cannot delete files at file: addresses"):
        prune(six, "keep=1")
    assert len(left(six)) == 6


@pytest.mark.parametrize("wanted", ["3", "keep=", "keep=-1", "keep=a", "keep=3 "])
def test_what_is_no_number_is_refused(six: Team, wanted: str) -> None:
    with pytest.raises(UserError, match="--versions keep=3, say"):
        prune(six, wanted)
    assert len(left(six)) == 6


def test_a_damaged_log_says_nothing_of_who_was_champion(six: Team) -> None:
    six.promote(2)
    six.workspace.promotions.write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="the promotion log cannot be used"):
        prune(six, "keep=1")
    assert len(left(six)) == 6


@pytest.fixture
def noted(six: Team) -> Team:
    """Version 6 is what the workspace's last evaluation registered; somebody moved its alias by hand since."""
    [weights] = [each.tags["model_sha256"] for each in Versions.of(six.store, MODEL).versions if each.version == 6]
    receipt = {"name": MODEL, "version": 6, "aliases": ["candidate"], "champion": 1, "model_sha256": weights}
    six.workspace.reports.mkdir(exist_ok=True)
    write_json(six.workspace.registration, receipt)
    six.store.client.set_registered_model_alias(MODEL, "candidate", "5")
    return six


def params(team: Team) -> Params:
    return load_params(team.workspace.params)


def test_status_does_not_go_on_to_name_what_is_gone(noted: Team) -> None:
    receipt = noted.workspace.registration.read_bytes()
    prune(noted, "keep=0", yes=False)
    assert "deleted" not in str(Registration.read(noted.workspace, None))
    assert Registration.read(noted.workspace, params(noted)).is_to_be_promoted
    prune(noted, "keep=0")
    assert left(noted) == [1, 5]
    assert str(Registration.read(noted.workspace, None)).startswith(f"nothing any more: {MODEL} version 6 was deleted")
    assert not Registration.read(noted.workspace, params(noted)).is_to_be_promoted
    assert noted.workspace.registration.read_bytes() == receipt, "dvc repro evaluates, and registers, it once more"


@pytest.mark.parametrize("is_here", [True, False])
def test_how_it_is_registered_again_is_said_where_it_can_be(noted: Team, is_here: bool) -> None:
    weights = read_json(noted.workspace.registration)["model_sha256"]
    noted.workspace.model("phase2").mkdir(parents=True)
    write_json(noted.workspace.model("phase2") / "model.json", {"sha256": weights if is_here else 64 * "f"})
    prune(noted, "keep=0")
    assert ("dvc repro -s -f evaluate" in str(Registration.read(noted.workspace, None))) is is_here
    assert ("its weights are not in models/" in str(Registration.read(noted.workspace, None))) is not is_here


@pytest.mark.parametrize("step", ["delete_model_version", "delete_logged_model"])
def test_killed_while_it_deletes_what_status_names(noted: Team, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The next clean knows it by what the killed one has left."""
    client = type(noted.store.client)
    done: Callable[..., Any] = getattr(client, step)

    def killed(*arguments: Any, **named: Any) -> None:
        if "6" in map(str, arguments) or step == "delete_logged_model":
            if step == "delete_model_version":
                done(*arguments, **named)
            raise Killed
        done(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(client, step, killed)
        prune(noted, "keep=0")
    prune(noted, "keep=0")
    assert left(noted) == [1, 5]
    assert "was deleted" in str(Registration.read(noted.workspace, None))


@pytest.mark.parametrize(
    "text", ["of another registry", "[]", "{", "[" * 100_000], ids=["other", "list", "cut", "deep"]
)
def test_a_receipt_that_is_not_of_it_stays(noted: Team, text: str) -> None:
    receipt = noted.workspace.registration
    if text == "of another registry":
        text = json.dumps({**read_json(receipt), "model_sha256": 64 * "f"})
    receipt.write_text(text, encoding="utf-8")
    prune(noted, "keep=0")
    assert left(noted) == [1, 5]
    assert receipt.read_text(encoding="utf-8") == text
    assert not noted.workspace.registered.exists()
