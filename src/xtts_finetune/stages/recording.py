"""A clip of the eval split, which base and phases say, too: what they are to sound like."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import SENTENCES, Workspace
from xtts_finetune.data.audio import dequantise, write_wav
from xtts_finetune.data.features import Example, FeatureReader

CLIP = "clip.wav"  # beside 1.wav and so on, in the folder of each model and in RECORDING
RECORDING = "recording"


def recorded_clip(workspace: Workspace, max_seconds: float) -> Example:
    """The longest of the eval split that is short enough to be said whole; else the shortest. Of equals the first.

    Args:
        max_seconds: that a model speaks, at the most.
    """
    reader = FeatureReader(workspace.prepared, "eval")
    lengths = [int(samples) for samples in reader.samples]
    most = 0.8 * max_seconds * SAMPLE_RATE  # a model may speak more slowly
    fitting = [length for length in lengths if length <= most]
    return reader[lengths.index(max(fitting) if fitting else min(lengths))]


def write_recording(samples: Path, sentences: Sequence[str], recorded: Example) -> None:
    """Add the recording itself, and a table of what each file says."""
    folder = samples / RECORDING
    folder.mkdir()
    write_wav(folder / CLIP, dequantise(recorded.audio), SAMPLE_RATE)
    write_sentences(samples, sentences, {CLIP: recorded.entry.text})


def write_sentences(samples: Path, sentences: Sequence[str], others: Mapping[str, str] | None = None) -> None:
    """A table of what each file says: 1.wav and so on the sentences; then `others`, by file."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("file", "text"))
    writer.writerows((f"{number}.wav", sentence) for number, sentence in enumerate(sentences, 1))
    writer.writerows((others or {}).items())
    write_text(samples / SENTENCES, table.getvalue())
