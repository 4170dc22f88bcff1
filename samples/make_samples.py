"""Make the starter recordings from their text.

Reads ``metadata.csv`` beside this file (LJSpeech layout: ``id|text|normalised
text``, no header), speaks every normalised text with ``espeak-ng`` and writes
``wavs/<id>.ogg`` (Ogg Vorbis, mono, 22 050 Hz). The text is the source of
truth: change a line, run this again, and the recordings follow.

    python samples/make_samples.py

The same text, espeak-ng and libsndfile give the same files, byte for byte. Exit
status: 0 when every recording was written, 2 when espeak-ng is missing.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).resolve().parent
METADATA = HERE / "metadata.csv"
WAVS = HERE / "wavs"

VOICE = "en-us"
WORDS_PER_MINUTE = 178
PITCH = 45
# Out of 200; espeak-ng's own 100 clips some of the lines.
AMPLITUDE = 70
SAMPLE_RATE = 22_050
# libsndfile's scale for Vorbis: 0.0 is the best quality, 1.0 the smallest file.
COMPRESSION_LEVEL = 0.97
# Quieter than this counts as silence; so much silence stays at either end.
SILENCE_LEVEL = 0.003
SILENCE_KEPT_S = 0.1
PEAK_LIMIT = 0.99
# An Ogg page: its header up to the segment table, and two of the fields in it.
OGG_HEADER_BYTES = 27
OGG_SERIAL = slice(14, 18)
OGG_CHECKSUM = slice(22, 26)


def read_metadata(path: Path) -> list[tuple[str, str]]:
    """Return (id, normalised text) for each line of an LJSpeech metadata file."""
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("|")
        if len(fields) != 3:
            raise ValueError(f"{path.name} line {number}: {len(fields)} fields, 3 wanted")
        rows.append((fields[0], fields[2]))
    return rows


def speak(espeak: str, text: str) -> np.ndarray:
    """Return the samples of one text as espeak-ng speaks it."""
    command = [espeak, "-v", VOICE, "-s", str(WORDS_PER_MINUTE), "-p", str(PITCH)]
    command += ["-a", str(AMPLITUDE), "--stdin", "--stdout"]
    wav = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    samples: np.ndarray
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise ValueError(f"espeak-ng gave {rate} Hz, shape {samples.shape}")
    return samples


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence at either end down to SILENCE_KEPT_S."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE_LEVEL)
    if loud.size == 0:
        raise ValueError("nothing but silence was spoken")
    kept = int(SILENCE_KEPT_S * SAMPLE_RATE)
    return samples[max(0, loud[0] - kept) : loud[-1] + 1 + kept]


def crc_table() -> list[int]:
    """Return the table of Ogg's checksum: CRC-32, polynomial 04C11DB7, not reflected."""
    table: list[int] = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


CRC_TABLE = crc_table()


def fix_serial(ogg: bytes) -> bytes:
    """Return the stream with serial number 1: libsndfile picks a new one at random each time."""
    data = bytearray(ogg)
    start = 0
    while start < len(data):
        segments = data[start + OGG_HEADER_BYTES - 1]
        table_end = start + OGG_HEADER_BYTES + segments
        end = table_end + sum(data[start + OGG_HEADER_BYTES : table_end])
        page = data[start:end]
        page[OGG_SERIAL] = (1).to_bytes(4, "little")
        page[OGG_CHECKSUM] = bytes(4)
        crc = 0
        for byte in page:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ CRC_TABLE[(crc >> 24) ^ byte]
        page[OGG_CHECKSUM] = crc.to_bytes(4, "little")
        data[start:end] = page
        start = end
    return bytes(data)


def make_clip(espeak: str, clip_id: str, text: str) -> float:
    """Speak one text into wavs/<id>.ogg and return its duration in seconds."""
    samples = trim(speak(espeak, text))
    if float(np.abs(samples).max()) >= PEAK_LIMIT:
        raise ValueError(f"{clip_id} is clipped")
    ogg = io.BytesIO()
    soundfile.write(
        ogg,
        samples,
        SAMPLE_RATE,
        format="OGG",
        subtype="VORBIS",
        compression_level=COMPRESSION_LEVEL,
    )
    (WAVS / f"{clip_id}.ogg").write_bytes(fix_serial(ogg.getvalue()))
    return len(samples) / SAMPLE_RATE


def main() -> int:
    """Make every recording and print how many there are and how long they last."""
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        print(
            "make_samples: espeak-ng not found; install it (apt-get install espeak-ng)",
            file=sys.stderr,
        )
        return 2
    WAVS.mkdir(exist_ok=True)
    rows = read_metadata(METADATA)
    total = sum(make_clip(espeak, clip_id, text) for clip_id, text in rows)
    print(f"{len(rows)} recordings, {total:.1f} s, in {WAVS.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
