"""Recordings measured: damage moves the numbers its way, level and other work do not, and nothing else is asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from making.project import PROJECT
from making.recordings import noise

from xtts_finetune.core.errors import UserError
from xtts_finetune.measures.alarms import Alarm
from xtts_finetune.measures.measured import MEASURES, Measure, Measurer, Measures, Recording
from xtts_finetune.measures.sound import RATE

pytestmark = pytest.mark.slow  # the models take half a minute to load
Samples = np.ndarray


def measure(measurer: Measurer, clip: Recording, samples: Samples | None = None) -> Measures:
    return measurer.measure(clip.samples if samples is None else samples, clip.rate, clip.text)


@pytest.fixture(scope="session")
def clean(measurer: Measurer, clips: list[Recording]) -> list[Measures]:
    """Of two sentences."""
    return [measure(measurer, clip) for clip in clips[:2]]


def test_a_recording_is_measured_whole(clean: list[Measures], measurer: Measurer) -> None:
    for each in clean:
        assert each.alarms == ()
        assert each.reasons == {}
        assert 1 <= (each.mos or 0) <= 5
        assert 0.75 < (each.similarity or 0) <= 1.0001  # the same speaker
        assert 0 <= (each.error if each.error is not None else 9) < 0.6
        assert each.letters_per_second == pytest.approx(measurer.voice.pace.letters_per_second, rel=0.4)
        assert each.seconds_per_letter == pytest.approx(measurer.voice.pace.seconds_per_letter, rel=0.4)
        assert 40 < (each.pitch or 0) < 60  # a man's voice: 82 to 262 Hz
        assert -1 <= (each.repeat or 9) < 0.8


def test_the_same_sound_gives_the_same_numbers_whatever_ran_before(
    clips: list[Recording], measurer: Measurer, clean: list[Measures]
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = measure(measurer, clips[0])
        assert torch.get_num_threads() == 1  # the caller's
    finally:
        torch.set_num_threads(before)
    assert again == clean[0]


def test_the_level_does_not_matter(clips: list[Recording], measurer: Measurer, clean: list[Measures]) -> None:
    quiet = measure(measurer, clips[0], clips[0].samples * np.float32(0.25))
    for name in MEASURES:
        assert getattr(quiet, name) == pytest.approx(getattr(clean[0], name), abs=2e-3), name


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (np.zeros(0, dtype=np.float32), "empty"),
        (np.zeros(RATE, dtype=np.float32), "silent"),
        (np.full(RATE, np.nan, dtype=np.float32), "not finite"),
        (np.ones(10, dtype=np.float32), "too short"),
    ],
)
def test_what_holds_no_sound_is_said_and_alarms(measurer: Measurer, samples: Samples, why: str) -> None:
    found = measurer.measure(samples, RATE, "Hello.")
    assert found == Measures(alarms=("silent",), reasons=dict.fromkeys(MEASURES, why))


@pytest.mark.parametrize("seconds", [0.1, 3.0])
def test_noise_holds_no_speech(measurer: Measurer, seconds: float) -> None:
    found = measurer.measure(noise(1, seconds, RATE), RATE, "Hello there.")
    assert found.alarms == ("silent",)
    assert found.letters_per_second is None
    assert found.reasons["letters_per_second"] == "no speech"
    assert found.mos is not None and found.mos < 3
    assert found.error is not None and found.error > 0.5


@pytest.mark.parametrize("seconds", [0.1, 0.3])
def test_a_snippet_is_measured_as_far_as_it_goes(measurer: Measurer, clips: list[Recording], seconds: float) -> None:
    middle = len(clips[0].samples) // 2
    found = measure(measurer, clips[0], clips[0].samples[middle : middle + round(seconds * clips[0].rate)])
    assert found.alarms
    lacking = {name for name in MEASURES if getattr(found, name) is None}
    assert lacking == set(found.reasons)
    assert "repeat" in lacking


def test_stereo_is_refused(measurer: Measurer, clips: list[Recording]) -> None:
    with pytest.raises(ValueError, match="a sound is"):
        measure(measurer, clips[0], np.stack([clips[0].samples] * 2, 1))


def test_a_text_without_letters_has_no_pace(measurer: Measurer, clips: list[Recording]) -> None:
    found = measurer.measure(clips[0].samples, clips[0].rate, "…")
    assert found.reasons == {
        "error": "no text",
        **dict.fromkeys(("letters_per_second", "seconds_per_letter", "gap"), "no text"),
    }


def test_a_language_without_a_recogniser_has_no_error(clips: list[Recording], clean: list[Measures]) -> None:
    found = Measurer(clips[4:], "de").measure(clips[0].samples, clips[0].rate, clips[0].text)
    assert found.error is None
    assert "no recogniser for de" in found.reasons["error"]
    assert found.mos == clean[0].mos


def test_a_voice_without_speech_is_refused() -> None:
    nothing = Recording(np.zeros(RATE, dtype=np.float32), RATE, "Hello.")
    with pytest.raises(UserError, match="none of 3 recordings of the speaker has speech"):
        Measurer([nothing] * 3, "en").measure(noise(1, 1.0, RATE), RATE, "Hello.")


def test_a_recording_without_speech_tells_nothing_of_the_voice(clips: list[Recording]) -> None:
    nothing = Recording(np.zeros(RATE, dtype=np.float32), RATE, "Hello.")
    one, two = Measurer(clips[4:6], "en").voice, Measurer([nothing, *clips[4:6]], "en").voice
    assert one.pace == two.pace
    assert (one.embedding == two.embedding).all()


def pause(sound: Samples, seconds: float) -> Samples:
    return np.concatenate([sound[: len(sound) // 2], np.zeros(round(seconds * 22_050)), sound[len(sound) // 2 :]])


def hiss(sound: Samples, level: float) -> Samples:
    return sound + np.random.default_rng(0).normal(0, level * sound.std(), len(sound))


def quicker(sound: Samples) -> Samples:
    """Half as long again as fast: a smaller speaker, too."""
    return np.interp(np.arange(0, len(sound), 1.5), np.arange(len(sound)), sound)


DAMAGES: dict[str, Callable[[Samples], Samples]] = {
    "noise": lambda sound: hiss(sound, 1.0),
    "clipping": lambda sound: np.clip(sound, -0.1 * sound.max(), 0.1 * sound.max()),
    "quicker": quicker,
    "a pause": lambda sound: pause(sound, 1.5),
    "cut": lambda sound: sound[: len(sound) // 2],
    "backwards": lambda sound: sound[::-1].copy(),
    "twice": lambda sound: np.concatenate([sound, sound]),
}


ELSEWHERE = """
import json, sys, numpy
from dataclasses import asdict
from xtts_finetune.measures.measured import Measurer, Recording
clips = [Recording(samples, 22_050, text) for text, samples in numpy.load(sys.argv[1]).items()]
print(json.dumps(asdict(Measurer(clips[1:], "en").measure(clips[0].samples, 22_050, clips[0].text))))
"""


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="to take the network away needs root on Linux")
def test_without_a_network_or_a_home_another_process_finds_the_same(
    clips: list[Recording], clean: list[Measures], tmp_path: Path
) -> None:
    np.savez(tmp_path / "clips.npz", **{clip.text: clip.samples for clip in (clips[0], *clips[4:])})
    bare = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT / "src")}
    bare["PATH"] = os.environ["PATH"]
    command = ["unshare", "--net", sys.executable, "-c", ELSEWHERE, str(tmp_path / "clips.npz")]
    run = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout) == json.loads(json.dumps(asdict(clean[0])))


@pytest.mark.parametrize(
    ("damage", "lower", "higher", "alarm"),
    [
        ("noise", ("mos", "similarity"), ("error",), None),
        ("clipping", ("mos", "similarity"), (), None),
        ("quicker", ("similarity", "seconds_per_letter"), ("pitch", "letters_per_second"), None),
        ("a pause", (), ("gap", "seconds_per_letter"), "runaway"),
        ("cut", ("seconds_per_letter",), ("letters_per_second", "error"), "cut off"),
        ("backwards", (), ("error",), None),
        ("twice", ("letters_per_second",), ("repeat", "error", "seconds_per_letter"), "repeat"),
    ],
)
def test_damage_moves_the_numbers(
    measurer: Measurer,
    clips: list[Recording],
    clean: list[Measures],
    damage: str,
    lower: tuple[Measure, ...],
    higher: tuple[Measure, ...],
    alarm: Alarm | None,
) -> None:
    for clip, before in zip(clips, clean, strict=False):
        after = measure(measurer, clip, DAMAGES[damage](clip.samples).astype(np.float32))
        for name in lower:
            assert getattr(after, name) < getattr(before, name), name
        for name in higher:
            assert getattr(after, name) > getattr(before, name), name
        if alarm:
            assert alarm in after.alarms
