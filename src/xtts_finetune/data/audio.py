"""Decoded sound: mono float32 at the model's rate, and its 16-bit form on disk."""

import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.data.checks import ClipRejected

PCM_SCALE = 32_768  # 16-bit step = 1 / PCM_SCALE
MAX_SECONDS = 600
MAX_VALUES = MAX_SECONDS * 48_000 * 2  # samples × channels
STREAM_BYTES = 0x7FFF_0000  # recorders that write to a pipe declare about this many, or more

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording, decoded."""

    samples: Samples  # (samples,) mono in [-1, 1] at SAMPLE_RATE
    rate: int  # Hz, of the file
    channels: int  # of the file


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """Write 16-bit PCM. Encoded in memory: of a full disk libsndfile knows no more than "System error"."""
    sound = io.BytesIO()
    soundfile.write(sound, samples, rate, format="WAV", subtype="PCM_16")
    path.write_bytes(sound.getbuffer())


def load_audio(path: Path) -> Audio:
    """Decode wav, flac, ogg, opus or mp3; mix down to mono, resample to SAMPLE_RATE.

    Memory is bounded: a file that declares more than MAX_SECONDS or MAX_VALUES is not decoded.

    Raises:
        ClipRejected: missing, undecodable, truncated, empty, far too long, or not finite.
    """
    if not os.path.isfile(path):
        raise ClipRejected(f"missing file: {path.parent.name}/{path.name}")
    try:
        with soundfile.SoundFile(path) as file:
            _check_header(file)
            frames, rate = file.frames, file.samplerate
            decoded: Samples = file.read(dtype="float32", always_2d=True)  # (frames, channels)
    except soundfile.LibsndfileError as error:
        raise ClipRejected(f"undecodable: {error.error_string}") from None
    except TypeError as error:  # a .raw file, which has no header
        raise ClipRejected(f"undecodable: {error}") from None
    if len(decoded) < 0.99 * frames:  # an MP3's header may be a little off
        raise ClipRejected(f"truncated: {len(decoded)} of {frames} samples are there")
    if not np.isfinite(decoded).all():
        raise ClipRejected("not finite: it has NaN or infinite samples")
    samples: Samples = decoded.mean(axis=1, dtype=np.float32)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    if len(samples) == 0:
        raise ClipRejected("empty: it has no samples")
    return Audio(np.clip(samples, -1, 1), rate, decoded.shape[1])


def _check_header(file: soundfile.SoundFile) -> None:
    """What can be known before decoding."""
    if file.frames > MAX_SECONDS * file.samplerate or file.frames * file.channels > MAX_VALUES:
        shape = f"{file.frames / file.samplerate:.0f} s at {file.samplerate} Hz × {file.channels} channel(s)"
        raise ClipRejected(f"far too long: {shape}; a clip is one sentence, cut it into clips")
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)  # libsndfile's log on a WAV
    if cut and int(cut[2]) < int(cut[1]) < STREAM_BYTES:
        raise ClipRejected(f"truncated: {cut[2]} of {cut[1]} bytes of audio are there")


def quantise(samples: Samples) -> npt.NDArray[np.int16]:
    """16-bit PCM, little-endian; exact for what was 16-bit PCM before.

    Args:
        samples: (samples,) in [-1, 1].
    """
    return np.clip(np.rint(samples * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype("<i2")


def digest(samples: Samples) -> bytes:
    """SHA-256 of the samples as `quantise` writes them: equal for the same sound in another lossless format."""
    return hashlib.sha256(quantise(samples).data).digest()


def dequantise(pcm: npt.NDArray[np.int16]) -> Samples:
    """The inverse of `quantise`: float32 in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(PCM_SCALE)
