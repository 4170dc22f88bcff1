"""What must not happen in a sentence, each time it does: that speech is silent, runs away, is cut off or repeats."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from xtts_finetune.measures.sound import FRAME, TARGET_DBFS, Sound
from xtts_finetune.measures.timing import Timing

Alarm = Literal["silent", "runaway", "cut off", "repeat"]
ALARMS: tuple[Alarm, ...] = get_args(Alarm)

SLOW, SPARE = 1.5, 1.0  # runaway: takes SLOW times what the voice needs for as many letters, and SPARE seconds more
LONG_GAP = 1.0  # seconds inside a sentence; runaway too: it hangs
FAST = 1.5  # cut off: times the voice's letters in a second of speech
LOUD_END = 15.0  # dB below the level of speech; cut off too, where the last 25 ms are louder
ALIKE = 0.8  # repeat; of two stretches of 0.4 s


@dataclass(frozen=True)
class Pace:
    """How fast somebody speaks."""

    letters_per_second: float  # of speech, pauses aside
    seconds_per_letter: float  # of the whole recording


def alarms_of(
    sound: Sound, letters: int, timing: Timing | None, repeat: float | None, voice: Pace
) -> tuple[Alarm, ...]:
    """Those of a sentence of so many letters; without a timing there is no speech in it."""
    if timing is None:
        return ("silent",)
    runs = timing.gap > LONG_GAP or timing.total > SLOW * letters * voice.seconds_per_letter + SPARE
    fast = letters > FAST * voice.letters_per_second * timing.speech
    raised: dict[Alarm, bool] = {
        "runaway": runs,
        "cut off": fast or _end_dbfs(sound) > TARGET_DBFS - LOUD_END,
        "repeat": repeat is not None and repeat > ALIKE,
    }
    return tuple(alarm for alarm, rings in raised.items() if rings)


def _end_dbfs(sound: Sound) -> float:
    power = np.square(sound.samples[-FRAME:], dtype=np.float64).mean()
    return float(10 * np.log10(max(power, 1e-12)))
