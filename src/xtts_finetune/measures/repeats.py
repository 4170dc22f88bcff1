"""Whether a stretch of speech comes again: how like itself a sound is at another time."""

import numpy as np
import numpy.typing as npt

from xtts_finetune.measures.sound import FRAME, RATE, Sound, Unmeasurable

COEFFICIENTS = 20  # the first, which is loudness, is left out
HOP = RATE // 50  # 20 ms
STRETCH = 20  # hops compared: 0.4 s
LEAST_LAG = 15  # hops between a stretch and its repeat: 0.3 s


class RepeatFinder:
    """The likeness of the two most alike stretches of 0.4 s: 1 where one comes again, near 0.5 in other speech.

    Cosine of normalised MFCCs along a diagonal of the self-similarity matrix (Foote 1999).
    """

    def __init__(self) -> None:
        from torchaudio.transforms import MFCC

        shape = {"n_fft": 512, "win_length": FRAME, "hop_length": HOP, "n_mels": 40}
        self._mfcc = MFCC(RATE, COEFFICIENTS, melkwargs=shape)

    def __call__(self, sound: Sound) -> float:
        """From -1 to 1.

        Raises:
            Unmeasurable: it is too short to say anything twice.
        """
        import torch

        spectra = self._mfcc(torch.from_numpy(sound.samples)).numpy()[1:].T.astype(np.float64)
        frames = _unit(spectra - spectra.mean(0), spectra.std(0)) * _spoken(sound, len(spectra))[:, None]
        if len(frames) < LEAST_LAG + STRETCH:
            raise Unmeasurable("too short")
        alike = frames @ frames.T
        lags = range(LEAST_LAG, len(frames) - STRETCH + 1)
        return max(float(_best_mean(np.diagonal(alike, lag))) for lag in lags)


def _unit(frames: npt.NDArray[np.float64], spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(frames, coefficients), each coefficient by its spread, each frame of length 1."""
    scaled = frames / np.maximum(spread, 1e-9)
    lengths: npt.NDArray[np.float64] = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-9)
    return lengths


def _spoken(sound: Sound, count: int) -> npt.NDArray[np.float64]:
    """(count,) 1 where a frame of the MFCC is no pause: pauses are alike and say nothing."""
    centres = np.minimum(np.arange(count) * HOP // FRAME, len(sound.active) - 1)
    return sound.active[centres].astype(np.float64)


def _best_mean(diagonal: npt.NDArray[np.float64]) -> np.float64:
    sums = np.cumsum(np.concatenate(([0.0], diagonal)))
    best: np.float64 = (sums[STRETCH:] - sums[:-STRETCH]).max() / STRETCH
    return best
