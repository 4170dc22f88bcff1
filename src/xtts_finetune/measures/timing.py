"""How fast it is spoken, and where it falls silent: silero-vad finds the speech."""

from dataclasses import dataclass
from itertools import pairwise

from xtts_finetune.measures.sound import RATE, Sound


@dataclass(frozen=True)
class Timing:
    """When a sentence is spoken, in seconds."""

    total: float  # of the sound
    speech: float  # of it with speech
    gap: float  # the longest pause between speech and speech; 0 without one


class SpeechFinder:
    """Speech and pauses (Silero VAD 6, its ONNX form)."""

    def __init__(self) -> None:
        from silero_vad import load_silero_vad

        self._model = load_silero_vad(onnx=True)

    def __call__(self, sound: Sound) -> Timing | None:
        """When there is speech; None where there is none."""
        import torch
        from silero_vad import get_speech_timestamps

        found = get_speech_timestamps(torch.from_numpy(sound.samples), self._model, sampling_rate=RATE)
        if not found:
            return None
        speech = sum(each["end"] - each["start"] for each in found)
        pauses = (after["start"] - before["end"] for before, after in pairwise(found))
        return Timing(len(sound.samples) / RATE, speech / RATE, max(pauses, default=0) / RATE)


def letters(text: str) -> int:
    """What of a text is spoken, roughly: its letters and digits."""
    return sum(character.isalnum() for character in text)
