"""What a registered version's tags tell, whoever edited them."""

import pytest

from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Told, shown

TAGS = {
    "phase": "phase2",
    "step": "355",
    "base": "xtts_v2",
    "model_sha256": "f" * 64,
    "parameters": "441018563",
    "language": "de",
    "eval_mel_ce": "2.5",
    "eval_text_ce": "2.75",
    "param.lr": "1e-06",
}


def version(**edited: str) -> Version:
    return Version("xtts-finetune", 7, ["champion"], TAGS | edited, "run")


def test_told() -> None:
    figures = {"mel_ce": 2.5, "text_ce": 2.75}
    assert Told.of(version()) == Told("phase2", 355, "raw", "xtts_v2", "f" * 64, 441_018_563, "de", figures)
    assert shown(version()) == "version 7 (champion): the best of phase2, Mel CE 2.500"


def test_of_a_version_before_that_told_less() -> None:
    bare = Version("xtts-finetune", 7, [], {}, "run")
    assert Told.of(bare) == Told("", None, "raw", "", "", None, None, {})
    assert shown(bare) == "version 7: the best of no phase that is known"


@pytest.mark.parametrize("text", ["", "12a", "-5", "1.5", "x", "٣", "9" * 5000])
def test_what_is_no_count_is_not_known(text: str) -> None:
    told = Told.of(version(step=text, parameters=text))
    assert (told.step, told.parameters) == (None, None)


@pytest.mark.parametrize("text", ["", "4,25", "x", "nan", "inf", "-1e999"])
def test_what_is_no_figure_is_not_known(text: str) -> None:
    edited = version(eval_mel_ce=text)
    assert Told.of(edited).figures == {"text_ce": 2.75}
    assert shown(edited) == "version 7 (champion): the best of phase2"


@pytest.mark.parametrize("text", ["", "Klingon", "EN", "en\n"])
def test_what_is_no_language_is_not_known(text: str) -> None:
    assert Told.of(version(language=text)).language is None


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    assert shown(version(phase="\x1b[2J")).isprintable()
