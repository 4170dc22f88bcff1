"""What must not happen in a sentence rings, and nothing else does."""

import numpy as np
import pytest

from xtts_finetune.measures.alarms import Alarm, Pace, alarms_of
from xtts_finetune.measures.sound import RATE, Sound, levelled
from xtts_finetune.measures.timing import Timing

VOICE = Pace(letters_per_second=14.0, seconds_per_letter=0.08)
LETTERS = 50  # 4 s of that voice, 3.6 s of them speech


@pytest.fixture
def sound(tone: np.ndarray) -> Sound:
    return levelled(np.concatenate([tone, np.zeros(RATE // 10, dtype=np.float32)]), RATE)


@pytest.mark.parametrize(
    ("timing", "repeat", "rings"),
    [
        (Timing(total=4.0, speech=3.6, gap=0.3), 0.5, ()),
        (Timing(total=4.0, speech=3.6, gap=0.3), None, ()),  # too short for repeats
        (None, 0.5, ("silent",)),
        (Timing(total=7.1, speech=6.5, gap=0.3), 0.5, ("runaway",)),
        (Timing(total=4.0, speech=3.6, gap=1.1), 0.5, ("runaway",)),
        (Timing(total=2.5, speech=2.3, gap=0.1), 0.5, ("cut off",)),
        (Timing(total=4.0, speech=3.6, gap=0.3), 0.9, ("repeat",)),
        (Timing(total=8.0, speech=7.0, gap=0.3), 0.9, ("runaway", "repeat")),
    ],
)
def test_alarms(sound: Sound, timing: Timing | None, repeat: float | None, rings: tuple[Alarm, ...]) -> None:
    assert alarms_of(sound, LETTERS, timing, repeat, VOICE) == rings


def test_speech_that_ends_at_full_level_is_cut_off(tone: np.ndarray) -> None:
    timing = Timing(total=4.0, speech=3.6, gap=0.3)
    assert alarms_of(levelled(tone, RATE), LETTERS, timing, 0.5, VOICE) == ("cut off",)


def test_a_short_word_has_a_second_to_spare(sound: Sound) -> None:
    assert alarms_of(sound, 2, Timing(total=1.1, speech=0.2, gap=0), None, VOICE) == ()
