"""Whether the words can be made out: a recogniser writes down what it hears, and that is compared with the text.

For English a small recogniser of phonemes comes with the package `hama`; for any language there may be one of the
user's own, a folder in Hugging Face's form (Whisper, wav2vec 2.0 …).
"""

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from xtts_finetune.core.constants import Language
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.measures.sound import RATE, Sound, Unmeasurable

LONG = 30 * RATE  # samples that Whisper hears at once
UNSPACED = ("zh-cn", "ja")  # languages written without spaces between words


class Recogniser(Protocol):
    """Compares what is heard with what was to be said."""

    def __call__(self, sound: Sound, text: str) -> float:
        """The share of signs that are wrong, missing or too many: 0 is perfect, 1 nothing; may exceed 1."""


def recogniser_for(language: Language, folder: Path | None) -> Recogniser:
    """The user's own where there is one, else the one for English.

    Raises:
        UserError: the folder holds no recogniser.
        Unmeasurable: there is none for this language, or this system.
    """
    if folder is not None:
        return Characters(folder, language)
    if language != "en":
        raise Unmeasurable(f"no recogniser for {language}: give one of your own, a folder in Hugging Face's form")
    return Phonemes()


class Phonemes:
    """Phoneme error rate in English: hama hears phonemes, and spells the text in them."""

    def __init__(self) -> None:
        """Raises Unmeasurable where hama's engine was not built for this system, as for Windows."""
        import hama

        try:
            self._hear = hama.ASRModel()
            spell = hama.G2PModel()
        except RuntimeError as error:
            raise Unmeasurable(f"the recogniser for English does not run on this system ({error})") from None
        self._spell = cache(lambda word: re.sub("[ ‿]", "", str(spell(word).ipa)))

    def __call__(self, sound: Sound, text: str) -> float:
        # word by word and without commas: in a sentence, or before a sign, it ends words in foreign phonemes
        expected = "".join(self._spell(word) for word in plain(text).split())
        return error_rate(expected, "".join(self._hear.transcribe_waveform(sound.samples, RATE).phonemes))


class Characters:
    """Character error rate, by a recogniser of the user's own."""

    def __init__(self, folder: Path, language: Language) -> None:
        """Load it, on the CPU.

        Raises:
            UserError: it is not a folder with a recogniser.
        """
        try:
            self._hear = _load(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            what = str(error).strip().partition("\n")[0]
            remedy = "give a folder that save_pretrained of a Whisper or wav2vec 2.0 model and its processor wrote"
            raise UserError("the recogniser cannot be loaded", [Problem(str(folder), what, remedy)]) from None
        self._joined = language in UNSPACED
        self._is_whisper = self._hear.model.config.model_type == "whisper"
        knows_several = self._is_whisper and getattr(self._hear.model.generation_config, "lang_to_id", None)
        spoken = {"language": language.partition("-")[0], "task": "transcribe"}
        self._options: dict[str, Any] = {"generate_kwargs": spoken} if knows_several else {}

    def __call__(self, sound: Sound, text: str) -> float:
        # longer ones Whisper hears in pieces, of which it asks for the times
        pieces = {"return_timestamps": True} if self._is_whisper and len(sound.samples) > LONG else {}
        heard: Any = self._hear({"raw": sound.samples.copy(), "sampling_rate": RATE}, **self._options, **pieces)
        expected, written = plain(text), plain(heard["text"])
        if self._joined:
            expected, written = expected.replace(" ", ""), written.replace(" ", "")
        return error_rate(expected, written)


def _load(folder: Path) -> Any:
    """A speech recognition pipeline; part by part, for only so is it sure that nothing is looked for elsewhere."""
    from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

    if not folder.is_dir():
        raise OSError("there is no such folder")
    here = {"local_files_only": True, "trust_remote_code": False}
    writes = AutoConfig.from_pretrained(folder, **here).is_encoder_decoder
    model = (AutoModelForSpeechSeq2Seq if writes else AutoModelForCTC).from_pretrained(folder, **here).eval()
    parts = AutoProcessor.from_pretrained(folder, **here)
    how = {"tokenizer": parts.tokenizer, "feature_extractor": parts.feature_extractor, "device": "cpu"}
    return pipeline("automatic-speech-recognition", model, **how)


def plain(text: str) -> str:
    """Lower case, without punctuation, one space between words: as a recogniser writes."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    kept = (c if c.isalnum() or c == "'" or unicodedata.combining(c) else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", "".join(kept)).split())


def error_rate(expected: str, heard: str) -> float:
    """Edits from one to the other by signs of what was expected.

    Raises:
        Unmeasurable: nothing was to be said.
    """
    import jiwer

    if not expected:
        raise Unmeasurable("no text")
    return float(jiwer.cer(expected, heard)) if heard else 1.0
