"""Which versions are fetched, what is refused before that, and what cannot be measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making.params import ParamsFile
from promoting import MODEL, Team, change_params

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureWriter, code_count
from xtts_finetune.measures.measured import Measurer, Measures, Recording
from xtts_finetune.promotion import examination, hearing
from xtts_finetune.promotion.command import Request, promote_lines
from xtts_finetune.promotion.figures import NotMeasured
from xtts_finetune.tracking.registry import DATA_TAG, Version

Said = tuple[str, str]  # a clip's language and speaker


def prepare(team: Team, evaluated: list[Said], trained: list[Said], sentences: int = 8) -> None:
    """prepared/ with these clips, whose sound is nothing; and so many sentences to be said."""
    team.workspace.prepared.mkdir(exist_ok=True)
    for split, clips in (("eval", evaluated), ("train", trained)):
        with FeatureWriter(team.workspace.prepared, split) as writer:
            for number, (language, speaker) in enumerate(clips):
                clip = Clip(f"{split}{number}", Path("none.wav"), f"{speaker} {number}", language, speaker, number)
                writer.add(clip, np.zeros(2048, np.float32), np.zeros(code_count(2048)), np.zeros(3))

    def hear(params: ParamsFile) -> None:
        params["promotion"]["sentences"] = sentences

    change_params(team, hear)


@pytest.fixture
def opened(team: Team, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions whose files were asked for, one after the other; both are to be measured, and cannot speak."""
    team.register(4.3, split=None)
    team.register(4.2, split="a")
    numbers = list[int]()

    @contextmanager
    def bundle(*arguments: Any) -> Iterator[Path]:
        version: Version = arguments[-1]
        numbers.append(version.version)
        yield Path(str(version.version))

    def mute(folder: Path, is_tuned: bool) -> None:
        raise NotMeasured("mute")

    figures = {"2": {"mel_ce": 4.2, "text_ce": 3.0}, "1": {"mel_ce": 4.3, "text_ce": 3.0}}
    monkeypatch.setattr(examination, "bundle", bundle)
    monkeypatch.setattr(examination, "measure", lambda workspace, folder, name: figures[folder.name])
    monkeypatch.setattr(hearing, "load_speaker", mute)
    return numbers


def test_each_version_is_fetched_once(team: Team, opened: list[int]) -> None:
    prepare(team, [("en", "a")] * 8, [("en", "a")])
    with pytest.raises(UserError, match=r"does not pass: speech\n"):
        team.promote()
    assert opened == [2, 1]


@pytest.mark.parametrize(
    ("language", "clips", "said"),
    [("de", 8, "promotion.recogniser\n      is null, and the eval split is in de"), ("en", 7, "promotion.sentences")],
)
def test_what_no_version_could_pass_is_refused_before_anything_is_fetched(
    team: Team, opened: list[int], language: str, clips: int, said: str
) -> None:
    prepare(team, [(language, "a")] * clips, [(language, "a")])
    for force in (False, True):
        with pytest.raises(UserError, match="no version could pass") as error:
            team.promote(force=force, why="so")
        assert said in str(error.value)
        assert "promotion.sentences: 0" in str(error.value)
    assert opened == []


def test_without_prepared_it_takes_force(team: Team, opened: list[int]) -> None:
    prepare(team, [("en", "a")] * 8, [("en", "a")])
    for file in team.workspace.prepared.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"does not pass: speech\n"):
        team.promote()
    said = team.promote(force=True, why="It was heard elsewhere.")
    assert "eval.jsonl cannot be read" in said
    assert team.champion == 2


def test_what_may_have_been_trained_on_is_said(team: Team, opened: list[int]) -> None:
    write_json(team.workspace.reports / "dataset.json", {"split_digest": "this"})
    for number, split in (("1", "that"), ("2", "this")):
        team.store.client.set_model_version_tag(MODEL, number, "split_digest", split)
        team.store.client.set_model_version_tag(MODEL, number, DATA_TAG, "untracked")
    said = team.promote()
    assert "version 1 may have been trained on some of the eval split in prepared/" in said
    assert "version 2 may" not in said


class Mouth:
    """Says anything, or cannot spell it."""

    def __init__(self, can_spell: bool) -> None:
        self.can_spell = can_spell

    def speak(self, text: str, language: str) -> tuple[Any, int]:
        if not self.can_spell:
            raise ValueError("it cannot spell q")
        return np.zeros(2205, np.float32), 22_050


@pytest.mark.parametrize("is_there", [True, False])
def test_a_base_that_is_there_and_cannot_be_measured_does_not_pass(
    team: Team, opened: list[int], monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    def load(folder: Path, is_tuned: bool) -> Mouth:
        if not (is_tuned or is_there):
            raise UserError("no base", [Problem("base: model.pth", "is not there", "fetch it")])
        return Mouth(can_spell=is_tuned)

    nothing = Measures()
    monkeypatch.setattr(hearing, "load_speaker", load)
    monkeypatch.setattr(Measurer, "measure", lambda self, *said: nothing)
    monkeypatch.setattr(examination, "rules_of", lambda comparison: [])
    monkeypatch.setattr(examination, "compare", lambda ours, theirs: None)
    prepare(team, [("en", "a")] * 8, [("en", "a")])
    if is_there:
        with pytest.raises(UserError, match=r"does not pass: voice similarity \(base\)\n"):
            team.promote()
    else:
        assert "the base was not heard: base: model.pth is not there" in team.promote()


def test_the_voice_is_of_one_speaker(team: Team, opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    voices = list[str]()

    class Listening(Measurer):
        def __init__(self, voice: list[Recording], *others: Any) -> None:
            super().__init__(voice, *others)
            voices.extend(recording.text.split()[0] for recording in voice)

    monkeypatch.setattr(hearing, "Measurer", Listening)
    prepare(team, [("en", "a")] * 8, [("de", "b")] * 5 + [("en", "c")] + [("en", "a")] * 2)
    with pytest.raises(UserError, match="speech"):
        team.promote()
    assert voices == ["a", "a"]


def test_what_cannot_pass_by_its_figures_is_not_heard(team: Team, opened: list[int]) -> None:
    """It takes minutes; who forces it is to know how it sounds."""
    prepare(team, [("en", "a")] * 8, [("en", "a")])
    team.promote(2, force=True, why="so")
    team.register(4.5, split="a")
    opened.clear()
    with pytest.raises(UserError, match=r"does not pass: eval Mel CE\n"):
        team.promote(3)
    assert opened == []
    team.promote(3, force=True, why="so")
    assert opened == [3, 2]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_version(team: Team, opened: list[int], name: str) -> None:
    """As of a variable in a script that is not set."""
    with pytest.raises(UserError, match="there is no such version"):
        list(promote_lines(team.workspace, Request(name, force=True, why="so")))
    assert team.champion == 1
