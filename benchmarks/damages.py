"""Damage to speech that a gate must hear, each at three strengths, and what is no damage; `gate.py` measures it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr

from xtts_finetune.measures.measured import Recording

Change = Callable[[Recording, float, np.random.Generator], Recording]
WINDOW, SEEK = 0.04, 0.01  # seconds, of `slower`


@dataclass(frozen=True)
class Damage:
    """What is done to a recording."""

    name: str
    unit: str
    strengths: tuple[float, float, float]
    apply: Change


def resampled(recording: Recording, factor: float) -> Recording:
    """Play it `factor` times as fast: pitch, formants and pace change alike."""
    samples = soxr.resample(recording.samples, recording.rate * factor, recording.rate)
    return replace(recording, samples=samples.astype(np.float32))


def slower(recording: Recording, factor: float) -> Recording:
    """Take `factor` times as long, at the same pitch: WSOLA (Verhelst and Roelands 1993)."""
    sound, rate = recording.samples.astype(np.float64), recording.rate
    hop, seek = round(WINDOW / 2 * rate), round(SEEK * rate)
    size, window = 2 * hop, np.hanning(2 * hop + 1)[:-1]
    padded = np.pad(sound, (seek, 2 * size + 3 * seek))
    starts = np.arange(0, round(len(sound) * factor), hop)
    out, follow = np.zeros(starts[-1] + size), padded[seek : seek + size]
    for start in starts:
        at = min(round(start / factor), len(sound))
        region = padded[at : at + size + 2 * seek]
        best = at + int(np.correlate(region, follow, "valid").argmax())
        out[start : start + size] += window * padded[best : best + size]
        follow = padded[best + hop : best + hop + size]
    return replace(recording, samples=out[: round(len(sound) * factor)].astype(np.float32))


def noisy(recording: Recording, decibels: float, draw: np.random.Generator) -> Recording:
    """White noise at a signal-to-noise ratio."""
    sound = recording.samples
    level = np.sqrt(np.square(sound, dtype=np.float64).mean()) / 10 ** (decibels / 20)
    return replace(recording, samples=(sound + draw.normal(0, level, len(sound))).astype(np.float32))


def faster(recording: Recording, factor: float, draw: np.random.Generator) -> Recording:
    return slower(recording, 1 / factor)


def shifted(recording: Recording, semitones: float, draw: np.random.Generator) -> Recording:
    """Pitch and formants higher, the pace as it was: a smaller speaker."""
    factor = 2 ** (semitones / 12)
    return resampled(slower(recording, factor), factor)


def clipped(recording: Recording, percent: float, draw: np.random.Generator) -> Recording:
    """So many of the samples at the limit."""
    most = np.quantile(np.abs(recording.samples), 1 - percent / 100)
    return replace(recording, samples=np.clip(recording.samples, -most, most))


def repeated(recording: Recording, seconds: float, draw: np.random.Generator) -> Recording:
    """A stretch from its middle is said twice."""
    length = min(round(seconds * recording.rate), len(recording.samples) // 2)
    start = int(draw.integers(0, len(recording.samples) - length))
    twice = recording.samples[start : start + length]
    samples = np.concatenate([recording.samples[: start + length], twice, recording.samples[start + length :]])
    return replace(recording, samples=samples)


def cut(recording: Recording, percent: float, draw: np.random.Generator) -> Recording:
    """Its end is missing."""
    return replace(recording, samples=recording.samples[: round(len(recording.samples) * (1 - percent / 100))])


def misread(pool: Sequence[Recording]) -> Change:
    """So much of its end, in percent, is of another sentence."""

    def change(recording: Recording, percent: float, draw: np.random.Generator) -> Recording:
        wrong = _any_but(pool, recording, draw)
        length = round(len(recording.samples) * percent / 100)
        kept = recording.samples[: len(recording.samples) - length]
        return replace(recording, samples=np.concatenate([kept, np.resize(wrong.samples, length)]))

    return change


def replaced(others: Sequence[Recording]) -> Change:
    """Of so many percent of the sentences another speaker says one of their own."""

    def change(recording: Recording, percent: float, draw: np.random.Generator) -> Recording:
        return _any_but(others, recording, draw) if draw.random() < percent / 100 else recording

    return change


def _any_but(pool: Sequence[Recording], recording: Recording, draw: np.random.Generator) -> Recording:
    choice = [each for each in pool if each.text != recording.text]
    return choice[draw.integers(len(choice))]


def damages(pool: Sequence[Recording], others: Sequence[Recording]) -> list[Damage]:
    """All of them.

    Args:
        pool: sentences of the speaker.
        others: of another speaker; where there are none, another is the speaker with pitch and formants shifted.
    """
    another = Damage("another speaker", "% of sentences", (25, 50, 100), replaced(others))
    return [
        Damage("noise", "dB SNR", (20, 10, 0), noisy),
        Damage("faster", "×", (1.05, 1.1, 1.25), faster),
        another if others else Damage("another speaker", "st higher", (1, 2, 4), shifted),
        Damage("clipping", "% of samples", (1, 5, 20), clipped),
        Damage("repeats", "s twice", (0.4, 1, 3), repeated),
        Damage("truncation", "% cut off", (10, 30, 50), cut),
        Damage("wrong words", "% of the sentence", (25, 50, 100), misread(pool)),
    ]


def touched(recording: Recording, draw: np.random.Generator) -> Recording:
    """What is no damage: another level, a later start, half a percent faster or slower."""
    late = np.pad(recording.samples, (int(draw.integers(0, recording.rate // 50)), 0))
    quieter = (late * np.float32(10 ** (-draw.uniform(0, 6) / 20))).astype(np.float32)
    return resampled(replace(recording, samples=quieter), float(draw.choice((0.995, 1.005))))
