"""data/consent.yaml: all that is wrong in one message, and nothing trained before it is right."""

import datetime
import re
from pathlib import Path

import pytest
from making.project import PROJECT

from xtts_finetune.cards.consent import Consent, read_consent
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace

RIGHT = """\
speaker: Anna Muster
consents_to: A voice may be trained on these recordings.
date: 2026-11-29
licence: CC0-1.0
contact: anna@example.org
"""


def put(workspace: Workspace, text: str) -> Workspace:
    workspace.data.mkdir(exist_ok=True)
    workspace.consent.write_text(text, encoding="utf-8")
    return workspace


def refusal(workspace: Workspace, text: str) -> str:
    with pytest.raises(UserError) as error:
        read_consent(put(workspace, text))
    return str(error.value)


def test_it_may_be_left_out(workspace: Workspace) -> None:
    assert read_consent(workspace) is None


def test_what_it_says(workspace: Workspace) -> None:
    assert read_consent(put(workspace, RIGHT)) == Consent(
        speaker="Anna Muster",
        consents_to="A voice may be trained on these recordings.",
        date=datetime.date(2026, 11, 29),
        licence="CC0-1.0",
        contact="anna@example.org",
    )


def test_the_example_of_the_docs_is_right(workspace: Workspace) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "cards.md").read_text(encoding="utf-8"), re.DOTALL)
    consent = read_consent(put(workspace, example))
    assert consent and "\n" in consent.consents_to


def test_every_mistake_is_named_at_once(workspace: Workspace) -> None:
    text = "speakr: Anna\nconsents_to: ' '\ndate: '2026-11-29'\nlicence: 7\nwitness: Bob\n"
    said = refusal(workspace, text)
    assert said.startswith("data/consent.yaml cannot be used\n")
    for problem in (
        "consent.yaml: speakr\n      is not a known key\n      remedy: did you mean speaker?",
        "consent.yaml: consents_to = ' '\n      is blank",
        "consent.yaml: date = '2026-11-29'\n      Input should be a valid date\n      remedy: write it as 2026-11-29,",
        "consent.yaml: licence = 7\n      Input should be a valid string",
        "consent.yaml: witness\n      is not a known key\n      remedy: remove it",
        "consent.yaml: contact\n      is missing\n      remedy: add it; docs/cards.md shows every key",
    ):
        assert problem in said
    assert said.count("remedy: ") == 6


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "consent.yaml: speaker\n      is missing"),
        ("- Anna", "consent.yaml = ['Anna']"),
        (RIGHT + "speaker: Bob\n", 'consent.yaml:6\n      found duplicate key "speaker"'),
        (RIGHT.replace("Anna Muster", '"Anna\\nMuster"'), "has more than one line"),
        (RIGHT.replace("Anna Muster", '"Anna\\e[2J"'), "has characters that cannot be shown"),
        (RIGHT.replace("Anna Muster", 301 * "A"), "at most 300 characters"),
        (
            RIGHT.replace("2026-11-29", "2026-02-31"),
            "consent.yaml: date = '2026-02-31'\n      Input should be a valid date",
        ),
        (RIGHT.replace("2026-11-29", "2026-11-29T10:00:00"), "date"),
    ],
)
def test_what_is_refused(workspace: Workspace, text: str, what: str) -> None:
    said = refusal(workspace, text)
    assert what in said
    assert "\x1b" not in said


def test_a_folder_is_no_statement(workspace: Workspace, tmp_path: Path) -> None:
    workspace.consent.mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder"):
        read_consent(workspace)
