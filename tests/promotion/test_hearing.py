"""The gate hears: versions that say the held sentences as recordings have them, or damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making.params import ParamsFile
from making.project import PROJECT
from making.recordings import sample_lines
from promoting import Team, change_params

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.data.audio import Samples, load_audio
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureWriter, code_count
from xtts_finetune.measures.measured import Measurer, Measures
from xtts_finetune.promotion import examination, hearing
from xtts_finetune.tracking.registry import Version

pytestmark = pytest.mark.slow
SENTENCES = 8  # the least that are compared
Says = Callable[[Samples], Samples]


def as_recorded(samples: Samples) -> Samples:
    return samples


def noisy(samples: Samples) -> Samples:
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return samples + 0.3 * float(np.sqrt(np.square(samples).mean())) * noise


def another_voice(samples: Samples) -> Samples:
    """Of shorter throat: everything a quarter higher, and quicker."""
    places = np.arange(0, len(samples) - 1, 1.25)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def silent(samples: Samples) -> Samples:
    return np.zeros_like(samples)


@pytest.fixture(scope="module")
def recordings() -> dict[str, Samples]:
    """Of the starter's speaker, by their text."""
    wavs = PROJECT / "samples" / "wavs"
    lines = [line.split("|") for line in sample_lines(2 * SENTENCES)]
    return {text: load_audio(wavs / f"{name}.ogg").samples for name, _, text in lines}


@pytest.fixture(scope="module")
def measured_once() -> Iterator[None]:
    """Of a sound that is heard again the measures are known: these tests hear few, many times."""
    known: dict[tuple[bytes, int, str], Measures] = {}
    measure = Measurer.measure

    def measure_once(self: Measurer, samples: Samples, rate: int, text: str) -> Measures:
        sound = samples.tobytes(), rate, text
        if sound not in known:
            known[sound] = measure(self, samples, rate, text)
        return known[sound]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Measurer, "measure", measure_once)
        yield


@pytest.fixture
def speaking(
    team: Team, recordings: dict[str, Samples], measured_once: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Half of the recordings are prepared to train on, half to evaluate; versions are to speak as they are told."""
    items = list(recordings.items())
    team.workspace.prepared.mkdir()
    for split, part in (("eval", items[:SENTENCES]), ("train", items[SENTENCES:])):
        with FeatureWriter(team.workspace.prepared, split) as writer:
            for number, (text, samples) in enumerate(part):
                clip = Clip(f"{split}{number}", Path("none.wav"), text, "en", "a", number)
                writer.add(clip, samples, np.zeros(code_count(len(samples))), np.zeros(3))

    def hear(params: ParamsFile) -> None:
        params["promotion"]["sentences"] = SENTENCES

    change_params(team, hear)
    team.register(4.3)
    team.register(4.2)

    def are_to(candidate: Says, champion: Says = as_recorded, base: Says | None = as_recorded) -> None:
        @contextmanager
        def bundle(*arguments: Any) -> Iterator[Version]:
            yield arguments[-1]

        class Speaker:
            def __init__(self, version: Version, is_tuned: bool) -> None:
                if not is_tuned and base is None:
                    raise UserError("gone", [Problem("base/xtts_v2", "is not there", "fetch it")])
                says = {1: champion, 2: candidate}[version.version] if is_tuned else base
                assert says
                self.says = says

            def speak(self, text: str, language: str) -> tuple[Samples, int]:
                return self.says(recordings[text]), SAMPLE_RATE

        monkeypatch.setattr(examination, "bundle", bundle)
        monkeypatch.setattr(hearing, "load_speaker", Speaker)

    return are_to


def test_who_sounds_the_same_passes(team: Team, speaking: Callable[..., None]) -> None:
    speaking(as_recorded)
    said = team.promote()
    assert team.champion == 2
    assert {"predicted MOS", "voice similarity", "alarms"} <= {rule.name for rule in team.entries[0].rules}
    assert "FAIL" not in said
    team.history(verify=True)


def test_noise_is_heard_and_no_speech_is_not_passed_over(team: Team, speaking: Callable[..., None]) -> None:
    speaking(noisy)
    with pytest.raises(UserError, match=r"does not pass: .*voice similarity"):
        team.promote()
    speaking(silent)
    with pytest.raises(UserError, match=r"does not pass: predicted MOS.*alarms"):
        team.promote()
    speaking(silent, silent)  # equally bad is not measured, and does not pass
    with pytest.raises(UserError, match="does not pass: predicted MOS"):
        team.promote()
    assert team.champion == 1
    assert team.entries == []


def test_less_like_the_speaker_than_without_training(team: Team, speaking: Callable[..., None]) -> None:
    """As good as a champion that was no better: only the base tells."""
    speaking(another_voice, another_voice)
    with pytest.raises(UserError, match=r"does not pass: voice similarity \(base\)\n"):
        team.promote()
    speaking(another_voice, another_voice, base=None)
    said = team.promote()
    assert "the base was not heard: base/xtts_v2 is not there" in said
    assert "beside the base" not in said
