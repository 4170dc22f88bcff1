"""Whether it is the same speaker: resemblyzer."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xtts_finetune.measures.sound import Sound, Unmeasurable

Embedding = npt.NDArray[np.float32]  # (256,), of length 1


class SpeakerEncoder:
    """Where a voice stands among voices (Wan et al. 2018, Generalized end-to-end loss for speaker verification)."""

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder

        self._model = VoiceEncoder("cpu", verbose=False)

    def __call__(self, sound: Sound) -> Embedding:
        """The embedding of its voiced parts.

        Raises:
            Unmeasurable: it has none.
        """
        from resemblyzer import trim_long_silences

        spoken = trim_long_silences(sound.samples)  # preprocess_wav would also raise the level, of quiet sounds only
        if len(spoken) == 0:
            raise Unmeasurable("no speech")
        embedding: Embedding = self._model.embed_utterance(spoken.astype(np.float32))
        return embedding


def centre(embeddings: Sequence[Embedding]) -> Embedding:
    """Of a speaker's recordings: their mean, at length 1."""
    mean = np.mean(embeddings, axis=0)
    embedding: Embedding = mean / np.linalg.norm(mean)
    return embedding
