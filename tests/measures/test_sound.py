"""All measures hear the same level and rate, and what holds no sound is said to."""

import numpy as np
import pytest

from xtts_finetune.measures.sound import RATE, TARGET_DBFS, Unmeasurable, levelled


@pytest.mark.parametrize("gain", [0.01, 1.0, 8.0])
def test_the_level_of_speech_is_one(tone: np.ndarray, gain: float) -> None:
    pause = np.zeros(RATE, dtype=np.float32)
    sound = levelled(np.concatenate([tone, pause]) * np.float32(gain), RATE)
    spoken = sound.samples[: len(tone)].astype(np.float64)
    assert 10 * np.log10(np.square(spoken).mean()) == pytest.approx(TARGET_DBFS, abs=0.2)  # the pause does not count
    assert sound.active.sum() == 40


def test_the_rate_is_one(tone: np.ndarray) -> None:
    assert len(levelled(tone, 48_000).samples) == len(tone) // 3
    assert len(levelled(tone, 22_050).samples) == pytest.approx(len(tone) * RATE / 22_050, abs=1)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (np.zeros(0, dtype=np.float32), "empty"),
        (np.ones(100, dtype=np.float32), "too short"),
        (np.zeros(RATE, dtype=np.float32), "silent"),
        (np.full(RATE, 1e-5, dtype=np.float32), "silent"),
        (np.full(RATE, np.nan, dtype=np.float32), "not finite"),
        (np.full(RATE, np.inf, dtype=np.float32), "not finite"),
    ],
)
def test_what_holds_no_sound(samples: np.ndarray, why: str) -> None:
    with pytest.raises(Unmeasurable, match=why):
        levelled(samples, RATE)


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (np.ones((RATE, 2), dtype=np.float32), RATE),  # stereo
        (np.ones(RATE, dtype=np.int16), RATE),
        (np.ones(RATE, dtype=np.float32), 0),
        (np.ones(RATE, dtype=np.float32), -RATE),
        (np.ones(RATE, dtype=np.float32), 4_000),
    ],
)
def test_what_a_caller_gets_wrong(samples: np.ndarray, rate: int) -> None:
    with pytest.raises(ValueError, match=r"a sound is|holds no speech"):
        levelled(samples, rate)
