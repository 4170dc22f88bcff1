"""The data card: mlcroissant itself finds it valid, and it says what lies there."""

import datetime
import json
from pathlib import Path

import mlcroissant
import pytest

from xtts_finetune.cards.consent import Consent
from xtts_finetune.cards.data_card import data_card
from xtts_finetune.core.files import sha256_file, write_json
from xtts_finetune.core.layout import SPLITS, Workspace
from xtts_finetune.data.features import DTYPES

NAMES = ["quiz-001.ogg", "two words.wav", "größe ☂.flac", "<b>&\"'.mp3", "100%20.opus", "a#b?c.WAV", "{x}[y].wav"]
CONSENT = Consent(
    speaker="Anna <b>Muster</b>",
    consents_to='A voice.\n---\n"quoted" </script>',
    date=datetime.date(2026, 11, 29),
    licence="https://creativecommons.org/publicdomain/zero/1.0/",
    contact="anna@example.org",
)


@pytest.fixture
def recordings(workspace: Workspace) -> list[Path]:
    """With metadata.csv and prepared/, all of them with contents of their own."""
    wavs = workspace.data / "wavs"
    wavs.mkdir(parents=True)
    workspace.prepared.mkdir()
    (workspace.data / "metadata.csv").write_text("quiz-001|A secret sentence.", encoding="utf-8")
    for name in NAMES:
        (wavs / name).write_text(name, encoding="utf-8")
    for split in SPLITS:
        line = {"id": f"of {split}", "text": "A secret sentence.", "language": "en", "speaker": "anna", "seconds": 1.5}
        counted = line | {"samples": 33075, "codes": 33, "tokens": 12}
        (workspace.prepared / f"{split}.jsonl").write_text(json.dumps(counted) + "\n", encoding="utf-8")
        for suffix in DTYPES:
            (workspace.prepared / f"{split}{suffix}").write_bytes(f"{split}{suffix}".encode())
    return [wavs / name for name in NAMES]


def described(workspace: Workspace, recordings: list[Path], consent: Consent | None = CONSENT) -> Path:
    features = {file.name: sha256_file(file) for file in workspace.prepared.iterdir()}
    write_json(workspace.data_card, data_card(workspace, recordings, features, ["de", "en"], consent))
    return workspace.data_card


@pytest.mark.parametrize("consent", [CONSENT, None])
def test_mlcroissant_finds_it_valid(workspace: Workspace, recordings: list[Path], consent: Consent | None) -> None:
    found = mlcroissant.Dataset(described(workspace, recordings, consent)).metadata
    assert not found.issues.errors
    assert found.in_language == ["de", "en"]
    assert {each.name for each in found.record_sets} == set(SPLITS)
    assert {field.name for each in found.record_sets for field in each.fields} == {
        *("id", "text", "language", "speaker", "seconds", "samples", "codes", "tokens")
    }


def test_every_file_is_there_by_its_sha256(workspace: Workspace, recordings: list[Path]) -> None:
    found = mlcroissant.Dataset(described(workspace, recordings)).metadata
    digests = {each.sha256: int(each.content_size.removesuffix(" B")) for each in found.distribution}
    files = [file for place in (workspace.data, workspace.prepared) for file in place.rglob("*") if file.is_file()]
    assert digests == {sha256_file(file): file.stat().st_size for file in files}


def test_it_has_no_transcript(workspace: Workspace, recordings: list[Path]) -> None:
    assert "secret" not in described(workspace, recordings).read_text(encoding="utf-8")


def test_it_has_the_consent(workspace: Workspace, recordings: list[Path]) -> None:
    found = mlcroissant.Dataset(described(workspace, recordings)).metadata
    assert found.license == [CONSENT.licence]
    [said] = found.personal_sensitive_information
    for words in (CONSENT.speaker, CONSENT.consents_to, "2026-11-29", CONSENT.contact):
        assert words in said
    without = mlcroissant.Dataset(described(workspace, recordings, None)).metadata
    assert without.license is None
    assert "No statement of the speakers' consent" in without.personal_sensitive_information[0]


def test_equal_data_give_equal_cards(workspace: Workspace, recordings: list[Path]) -> None:
    assert described(workspace, recordings).read_bytes() == described(workspace, recordings).read_bytes()


def test_its_fields_are_those_of_the_files(workspace: Workspace, recordings: list[Path]) -> None:
    """mlcroissant reads them."""
    card = described(workspace, recordings)
    place = {f"prepared/{split}.jsonl": workspace.prepared / f"{split}.jsonl" for split in SPLITS}
    dataset = mlcroissant.Dataset(card, mapping=place)
    [record] = dataset.records("eval")
    assert record["eval/id"] == b"of eval"
    assert (record["eval/codes"], record["eval/seconds"]) == (33, 1.5)
