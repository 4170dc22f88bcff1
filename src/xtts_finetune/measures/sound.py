"""What every measure is given: mono at 16 kHz, at one level."""

import math
from dataclasses import dataclass

import numpy as np
import soxr

from xtts_finetune.data.audio import Samples

RATE = 16_000  # Hz; what all the libraries take, some of them unchecked
LEAST_RATE = 8_000  # Hz; a telephone's
LEAST_SECONDS = 0.1
FRAME = RATE // 40  # 25 ms
ACTIVE_DB = 30  # below the loudest frame: what is quieter is a pause
TARGET_DBFS = -26  # of the active frames: ITU-T P.56's usual level
SILENCE_DBFS = -70  # of the loudest frame


@dataclass(frozen=True, eq=False)
class Sound:
    """Speech ready to be measured."""

    samples: Samples  # (samples,) at RATE, its active frames at TARGET_DBFS
    active: np.ndarray  # (samples // FRAME,) bool: the frames that are no pause


class Unmeasurable(Exception):
    """A sound, or what is asked of it, cannot be measured; says why."""


def levelled(samples: Samples, rate: int) -> Sound:
    """Resample to RATE and bring to TARGET_DBFS: resemblyzer, silero and swift-f0 follow loudness otherwise.

    Args:
        samples: (samples,) mono, float.
        rate: Hz.

    Raises:
        ValueError: it is not mono, not float, or at no rate of speech: a mistake of the caller's.
        Unmeasurable: too short, silent or not finite: a mistake of the model's.
    """
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"a sound is (samples,) of floats, not {samples.shape} of {samples.dtype}")
    if rate < LEAST_RATE:
        raise ValueError(f"a rate of {rate} Hz holds no speech: {LEAST_RATE} Hz at least")
    if len(samples) < LEAST_SECONDS * rate:
        raise Unmeasurable("too short" if len(samples) else "empty")
    if not np.isfinite(samples).all():
        raise Unmeasurable("not finite")
    sound = soxr.resample(samples.astype(np.float32), rate, RATE, quality="HQ")
    power = np.square(sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME), dtype=np.float64).mean(1)
    if power.max() <= 10 ** (SILENCE_DBFS / 10):
        raise Unmeasurable("silent")
    active = power > power.max() / 10 ** (ACTIVE_DB / 10)
    gain = math.sqrt(10 ** (TARGET_DBFS / 10) / power[active].mean())
    return Sound((sound * np.float32(gain)).astype(np.float32), active)
