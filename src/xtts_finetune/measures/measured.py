"""One sentence measured: the numbers, why one is lacking, and the alarms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import numpy as np

from xtts_finetune.core.constants import Language
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.data.audio import Samples
from xtts_finetune.measures.alarms import Alarm, Pace, alarms_of
from xtts_finetune.measures.pitch import PitchFinder
from xtts_finetune.measures.quality import Quality
from xtts_finetune.measures.recognition import Recogniser, recogniser_for
from xtts_finetune.measures.repeats import RepeatFinder
from xtts_finetune.measures.similarity import Embedding, SpeakerEncoder, centre
from xtts_finetune.measures.sound import Sound, Unmeasurable, levelled
from xtts_finetune.measures.threads import few_threads
from xtts_finetune.measures.timing import SpeechFinder, Timing, letters

Measure = Literal[
    "mos", "similarity", "error", "letters_per_second", "seconds_per_letter", "gap", "pitch", "pitch_range", "repeat"
]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class Recording:
    """What the speaker said."""

    samples: Samples  # (samples,) mono
    rate: int  # Hz
    text: str


@dataclass(frozen=True)
class Measures:
    """Of one sentence that was spoken. None: it could not be measured, and `reasons` says why."""

    mos: float | None = None  # predicted mean opinion score, 1 to 5
    similarity: float | None = None  # of the voice to the speaker's, cosine
    error: float | None = None  # share of phonemes (English) or characters (own recogniser) that are wrong
    letters_per_second: float | None = None  # of speech, pauses aside
    seconds_per_letter: float | None = None  # of the whole sound
    gap: float | None = None  # seconds, the longest pause inside
    pitch: float | None = None  # median, semitones as MIDI counts them
    pitch_range: float | None = None  # semitones from the 10th to the 90th percentile
    repeat: float | None = None  # likeness of the two most alike stretches of 0.4 s
    alarms: tuple[Alarm, ...] = ()
    reasons: Mapping[Measure, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Voice:
    """The speaker, as in their recordings."""

    embedding: Embedding
    pace: Pace


class Measurer:
    """Measures sentences against a speaker's recordings; on the CPU, without a network, the same sound always alike.

    Models are loaded when they are first needed, once: keep one Measurer for all sentences of all models.
    """

    def __init__(self, voice: Sequence[Recording], language: Language, recogniser: Path | None = None) -> None:
        """Nothing is loaded yet.

        Args:
            voice: some recordings of the speaker; 20 are enough.
            recogniser: a folder with a speech recogniser of the user's own, in Hugging Face's form.
        """
        assert voice, "a voice is compared with recordings of it"
        self._recordings, self._language, self._folder = voice, language, recogniser

    def measure(self, samples: Samples, rate: int, text: str) -> Measures:
        """Measure one sentence.

        Args:
            samples: (samples,) mono, float.
            rate: Hz, its own: it is resampled here.
            text: what was to be said.

        Raises:
            ValueError: the sound is not mono, not float, or at no rate of speech.
            UserError: the recogniser cannot be loaded, or there is no speech in the speaker's recordings.
        """
        with few_threads():
            voice = self.voice
            try:
                return self._measured(levelled(samples, rate), text, voice)
            except Unmeasurable as why:
                return Measures(alarms=("silent",), reasons=dict.fromkeys(MEASURES, str(why)))

    @cached_property
    def voice(self) -> Voice:
        """The speaker's; a recording without speech tells nothing of it.

        Raises:
            UserError: none has speech.
        """
        with few_threads():
            heard = [found for each in self._recordings if (found := self._heard(each))]
        if not heard:
            what = f"none of {len(self._recordings)} recordings of the speaker has speech in it"
            raise UserError("there is no voice to compare with", [Problem("data/wavs", what, "listen to them")])
        embeddings, paces = zip(*heard, strict=True)
        per_second = median(pace.letters_per_second for pace in paces)
        return Voice(centre(embeddings), Pace(per_second, median(pace.seconds_per_letter for pace in paces)))

    def _heard(self, recording: Recording) -> tuple[Embedding, Pace] | None:
        """What one recording tells of the voice, if anything."""
        try:
            sound = levelled(recording.samples, recording.rate)
            per_second, per_letter, _ = _pace(self._speech(sound), letters(recording.text))
            return self._encoder(sound), Pace(per_second, per_letter)
        except Unmeasurable:
            return None

    def _measured(self, sound: Sound, text: str, voice: Voice) -> Measures:
        timing = self._speech(sound)
        steps: dict[tuple[Measure, ...], Callable[[], tuple[float, ...]]] = {
            ("mos",): lambda: (self._quality(sound),),
            ("similarity",): lambda: (float(self._encoder(sound) @ voice.embedding),),
            ("error",): lambda: (self._recogniser(sound, text),),
            ("letters_per_second", "seconds_per_letter", "gap"): lambda: _pace(timing, letters(text)),
            ("pitch", "pitch_range"): lambda: self._pitch(sound),
            ("repeat",): lambda: (self._repeats(sound),),
        }
        found, reasons = dict[Measure, float](), dict[Measure, str]()
        for names, step in steps.items():
            try:
                values = step()
            except Unmeasurable as why:
                reasons |= dict.fromkeys(names, str(why))
            else:
                assert np.isfinite(values).all(), f"{names} of a finite sound are {values}"
                found |= zip(names, values, strict=True)
        alarms = alarms_of(sound, letters(text), timing, found.get("repeat"), voice.pace)
        return Measures(**found, alarms=alarms, reasons=reasons)

    @cached_property
    def _quality(self) -> Quality:
        return Quality()

    @cached_property
    def _encoder(self) -> SpeakerEncoder:
        return SpeakerEncoder()

    @cached_property
    def _recogniser(self) -> Recogniser:
        return recogniser_for(self._language, self._folder)

    @cached_property
    def _speech(self) -> SpeechFinder:
        return SpeechFinder()

    @cached_property
    def _pitch(self) -> PitchFinder:
        return PitchFinder()

    @cached_property
    def _repeats(self) -> RepeatFinder:
        return RepeatFinder()


def _pace(timing: Timing | None, count: int) -> tuple[float, float, float]:
    """Letters per second, seconds per letter, the longest gap."""
    if timing is None:
        raise Unmeasurable("no speech")
    if count == 0:
        raise Unmeasurable("no text")
    return count / timing.speech, timing.total / count, timing.gap
