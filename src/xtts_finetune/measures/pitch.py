"""How high the voice is and how lively: swift-f0."""

import numpy as np

from xtts_finetune.measures.sound import RATE, Sound, Unmeasurable
from xtts_finetune.measures.threads import THREADS

VOICED = 0.5  # confidence, as calibrated by swift-f0
LOWEST, HIGHEST = 60, 500  # Hz, of speech
LEAST_FRAMES = 6  # voiced, of 16 ms each


class PitchFinder:
    """Fundamental frequency (Nieradzik 2025, SwiftF0)."""

    def __init__(self) -> None:
        from swift_f0 import SwiftF0

        self._model = SwiftF0(threads=THREADS, spin=False)

    def __call__(self, sound: Sound) -> tuple[float, float]:
        """Median, and range from the 10th to the 90th percentile, in semitones as MIDI counts them (69 is 440 Hz).

        Raises:
            Unmeasurable: there is hardly a voiced frame.
        """
        found = self._model.detect(sound.samples, RATE, fmin=LOWEST, fmax=HIGHEST)
        hertz = found.pitch_hz[found.confidence >= VOICED]
        if len(hertz) < LEAST_FRAMES:
            raise Unmeasurable("no voice")
        low, median, high = np.percentile(69 + 12 * np.log2(hertz / 440), (10, 50, 90))
        return float(median), float(high - low)
