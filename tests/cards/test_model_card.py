"""The model card: what is known stands there, what is hostile stays text."""

import datetime
import html.parser
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from xtts_finetune.cards.consent import Consent
from xtts_finetune.cards.lineage import Base, Data, Figures, Lineage, Model, Run
from xtts_finetune.cards.model_card import model_card
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json, write_json

MODEL = Model(phase="phase2", step=335, best_weights="raw", sha256=64 * "a")
CONSENT: dict[str, Any] = {
    "speaker": "Anna Muster",
    "consents_to": "A voice may be trained.\nNot to be used in adverts.",
    "date": datetime.date(2026, 11, 29),
    "licence": "CC0-1.0",
    "contact": "anna@example.org",
}
HOSTILE = [
    "<script>alert(1)</script>",
    "<script src=//evil.example/x.js",
    "<!-- all that follows is gone",
    "</td></tr></table><img src=x onerror=alert(1)>",
    "---\nlicense: mit\n---\n",
    "\n---\n\n# I am the page\n",
    "[click](javascript:alert(1)) ![x](http://evil.example/p.png)",
    "`code` | new | column |\n|---|---|---|",
    "&lt;script&gt; &#60;script&#62;",
    "- a list\n1. and another\n> a quotation\n===\n    code",
    "```\nfenced",
    "$$x$$ ~~gone~~ **bold** _slanted_ \\",
    "!!python/object:os.system {a: b} %TAG ! x: &y *z",
]


def lineage(**changes: Any) -> Lineage:
    consent = changes.pop("consent", None)
    data = Data(
        clips={"read": 312, "accepted": 311, "rejected": 1, "train": 265, "eval": 46},
        hours={"train": 0.5, "eval": 0.1},
        languages={"en": 311},
        speakers=1,
        rejected_by_kind={"silence": 1},
        split_digest=64 * "d",
        consent=consent,
    )
    sure = {"mel_ce_interval": (3.9, 4.2), "text_ce_interval": (3.4, 3.7), "clips": 46}
    figures = {
        "base": Figures(mel_ce=7.13, text_ce=5.937),
        "phase2": Figures(mel_ce=4.046, text_ce=3.538, **sure),
    }
    told = {"model": MODEL, "base": Base(name="mini"), "language": "en", "data": data, "figures": figures}
    return Lineage(**(told | changes))


def card(told: Lineage, name: str = "anna", has_data_card: bool = False) -> str:
    return model_card(told, name, "models/phase2", "## Speak\n", has_data_card)


@pytest.mark.parametrize("clips", [None, 0])
def test_intervals_of_nobody_knows_how_many_clips(clips: int | None) -> None:
    sure = Figures(mel_ce=4.046, text_ce=3.538, mel_ce_interval=(3.9, 4.2), clips=clips)
    page = card(lineage(figures={"phase2": sure}))
    assert "4.046 (3.900 to 4.200)" in page
    assert "bootstrap" not in page


@pytest.mark.parametrize(("field", "name"), [("clips", "train"), ("clips", "read"), ("hours", "eval")])
def test_a_partial_lineage_is_refused_with_what_it_lacks(tmp_path: Path, field: str, name: str) -> None:
    file = tmp_path / "lineage.json"
    lineage().write(file)
    assert Lineage.read(file, MODEL.sha256) == lineage()
    content = read_json(file)
    del content["data"][field][name]
    write_json(file, content)
    with pytest.raises(UserError, match=rf"data\.{field} .*lacks {name}"):
        Lineage.read(file, MODEL.sha256)


class Tags(html.parser.HTMLParser):
    """Of a page as a browser sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(page: str) -> Tags:
    """As Markdown with HTML in it is shown."""
    text = ModelCard(page).text
    return Tags(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def metadata(page: str) -> Any:
    """What stands before the page, read by another parser than that of huggingface_hub."""
    _, front, _ = page.split("---\n", 2)
    return yaml.safe_load(front)


def test_figures_with_their_intervals() -> None:
    page = card(lineage())
    assert "| base | 7.130 | 5.937 | 0.0594 |" in page
    assert "| **phase2, this one** | 4.046 (3.900 to 4.200) | 3.538 (3.400 to 3.700) | 0.0354 |" in page
    assert "95 % confidence (bootstrap over the 46 clips)" in page
    told = ModelCard(page).data.eval_results
    assert told and [(each.metric_type, each.metric_value) for each in told] == [("mel_ce", 4.046), ("text_ce", 3.538)]
    assert told[0].metric_args == {"interval_95": [3.9, 4.2]}


def test_what_is_not_known_is_said_to_be_so() -> None:
    nothing = Lineage(model=Model(phase="", step=None, best_weights="raw", sha256=""), base=Base(name=""))
    page = card(nothing)
    for line in (
        "Its losses on the recordings kept for evaluation are not known.",
        "How many there were is not known.",
        "whether they agreed, is not known here",
        "| phase, step | , not known |",
        "| git commit | not known |",
        "| recordings | not stated |",
    ):
        assert line in page
    assert metadata(page) == {
        "library_name": "coqui",
        "pipeline_tag": "text-to-speech",
        "tags": ["xtts", "voice", "fine-tuned"],
    }


def test_mini_is_not_said_to_load_in_coqui() -> None:
    told = metadata(card(lineage(base=Base(name="mini"))))
    assert "library_name" not in told
    assert "xtts" not in told["tags"]
    assert metadata(card(lineage(base=Base(name="xtts_v2"))))["library_name"] == "coqui"


def test_the_licence_is_that_of_the_base() -> None:
    published = Base(name="xtts_v2", sha256=64 * "b", licence="Coqui Public Model License 1.0.0")
    page = card(lineage(base=published))
    assert "Coqui Public Model License 1.0.0: non-commercial use only, for the model and for what it says" in page
    told = metadata(page)
    assert (told["license"], told["license_name"]) == ("other", "coqui-public-model-license")
    assert (told["base_model"], told["license_link"][:8]) == ("coqui/XTTS-v2", "https://")
    of_mini = card(lineage())
    assert "none: `mini` was built from the seed and the recordings" in of_mini
    assert "license" not in metadata(of_mini)
    assert "that of `../voices/bob`; if it derives from XTTS v2" in card(lineage(base=Base(name="../voices/bob")))


def test_consent_in_the_speakers_words() -> None:
    page = card(lineage(consent=Consent(**CONSENT)))
    text = shown(page).text
    for words in ("Anna Muster", "2026-11-29", "CC0-1.0", "anna@example.org", "Not to be used in adverts."):
        assert words in text
    assert "No statement came with the recordings" not in page


def test_a_change_that_is_not_committed_is_said() -> None:
    assert "| git commit | abc, and changes to it |" in card(lineage(git_commit="abc", git_dirty=True))
    assert "| git commit | abc |" in card(lineage(git_commit="abc", git_dirty=False))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["speaker", "consents_to", "licence", "contact"])
def test_a_hostile_statement_stays_text(text: str, field: str) -> None:
    consent = Consent.model_construct(**CONSENT | {field: text})
    assert_it_stays_text(lineage(consent=Consent(**CONSENT)), lineage(consent=consent), text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["phase", "sha256", "base", "run", "kind", "language", "commit"])
def test_hostile_papers_of_a_version_stay_text(text: str, field: str) -> None:
    """Which anybody may edit on a server."""

    def with_it(value: str) -> Lineage:
        told = lineage()
        assert told.data
        kinds = {value if field == "kind" else "silence": 1}
        spoken = {value if field == "language" else "en": 311}
        named = {"phase": value} if field == "phase" else {"sha256": value} if field == "sha256" else {}
        return told.model_copy(
            update={
                "model": MODEL.model_copy(update=named),
                "base": Base(name=value if field == "base" else "mini"),
                "runs": {"phase2": Run(key="k", mlflow_run_id=value if field == "run" else "m")},
                "git_commit": value if field == "commit" else "abc",
                "data": told.data.model_copy(update={"rejected_by_kind": kinds, "languages": spoken}),
                "figures": {value if field == "phase" else "phase2": told.figures["phase2"]},
            }
        )

    assert_it_stays_text(with_it("Anna"), with_it(text), text)


def assert_it_stays_text(harmless: Lineage, hostile: Lineage, text: str) -> None:
    """The page has the tags that it has anyway, and its metadata the same keys; all of the text can be read on it."""
    before, after = card(harmless), card(hostile)
    plain = {"p", "code"}  # one line more of a quotation; a name in the form of code

    def tags(page: str) -> set[tuple[str, tuple[tuple[str, str | None], ...]]]:
        return {tag for tag in shown(page).seen if tag[0] not in plain}

    assert tags(after) <= tags(before)
    assert metadata(after).keys() == metadata(before).keys()
    assert metadata(after).get("license") == metadata(before).get("license")
    read = " ".join(shown(after).text.split())
    for word in text.split():
        assert word in read


@pytest.mark.parametrize("name", HOSTILE)
def test_a_voice_with_a_hostile_name(name: str) -> None:
    page = card(lineage(), name)
    assert metadata(page).keys() == metadata(card(lineage())).keys()
    assert metadata(page)["model-index"][0]["name"].split() == name.split()
    assert {tag for tag, _ in shown(page).seen} <= {tag for tag, _ in shown(card(lineage())).seen}


def test_the_data_card_is_named_where_there_is_one() -> None:
    assert "`croissant.json` describes them" in card(lineage(), has_data_card=True)
    assert "croissant" not in card(lineage())
