"""The registered model as MLflow's pyfunc: text in, speech out.

MLflow copies this file beside the weights and runs it when the model is loaded; nothing here imports it.
"""

import base64
import io
import wave
from pathlib import Path
from typing import Any

import pandas  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class XttsSpeaker(PythonModel):
    """Input columns: `text`, and optionally `language` (English where left out).

    Output columns: `audio_wav_base64` (16-bit mono WAV) and `sample_rate` (Hz).
    """

    def load_context(self, context: PythonModelContext) -> None:
        from xtts_finetune.speech.speaker import load_speaker

        self._speaker = load_speaker(Path(context.artifacts["model"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pandas.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pandas.DataFrame:
        """Speak every row."""
        rows = model_input.to_dict("records")
        spoken = [self._speaker.speak(row["text"], _language(row)) for row in rows]
        return pandas.DataFrame(
            {
                "audio_wav_base64": [base64.b64encode(_wav_bytes(*speech)).decode() for speech in spoken],
                "sample_rate": [sample_rate for _, sample_rate in spoken],
            }
        )


def _language(row: dict[str, Any]) -> str:
    language = row.get("language")
    return language if isinstance(language, str) else "en"  # a cell left empty is None or NaN


def _wav_bytes(samples: Any, sample_rate: int) -> bytes:
    """Float samples in [-1, 1] as a 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


set_model(XttsSpeaker())
