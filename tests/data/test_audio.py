"""Decoding: every format comes out as mono float32 at the model's rate, or is rejected with a reason."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from making.recordings import Recordings, noise

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.data import audio
from xtts_finetune.data.audio import dequantise, load_audio, quantise, write_wav
from xtts_finetune.data.checks import ClipRejected


def sine(hertz: float, rate: int, seconds: float = 1.0) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def rejection(path: Path) -> str:
    with pytest.raises(ClipRejected) as caught:
        load_audio(path)
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bit_at_the_models_rate_is_exact(recordings: Recordings, name: str) -> None:
    samples = noise(1, 1.0)
    loaded = load_audio(recordings.write(name, samples))
    assert loaded.samples.dtype == np.float32 and np.array_equal(loaded.samples, samples)
    assert (loaded.rate, loaded.channels) == (SAMPLE_RATE, 1)


@pytest.mark.parametrize(
    ("name", "rate"), [("a.wav", 8_000), ("a.wav", 44_100), ("a.ogg", 44_100), ("a.mp3", 44_100), ("a.wav", 96_000)]
)
def test_other_rates_are_resampled(recordings: Recordings, name: str, rate: int) -> None:
    loaded = load_audio(recordings.write(name, sine(440, rate), rate))
    assert (loaded.rate, abs(len(loaded.samples) - SAMPLE_RATE) <= 1) == (rate, True)
    middle = slice(2000, 20_000)  # encoders and filters ring at the ends
    assert np.abs(loaded.samples[:SAMPLE_RATE] - sine(440, SAMPLE_RATE)[: len(loaded.samples)])[middle].max() < 0.02


def test_opus(recordings: Recordings) -> None:
    path = recordings.root / "wavs" / "a.opus"
    soundfile.write(path, sine(440, 48_000), 48_000, format="OGG", subtype="OPUS")
    assert abs(len(load_audio(path).samples) - SAMPLE_RATE) <= 1


def test_resampling_lets_no_alias_through(recordings: Recordings) -> None:
    loaded = load_audio(recordings.write("a.wav", sine(14_000, 44_100), 44_100))
    assert np.abs(loaded.samples[2000:-2000]).max() < 1e-3  # above 11 025 Hz: silence, not a tone at 8 050 Hz


def test_stereo_is_mixed_to_the_mean(recordings: Recordings) -> None:
    left, right = noise(1, 1.0), noise(2, 1.0)
    loaded = load_audio(recordings.write("a.wav", np.stack([left, right], axis=1)))
    assert loaded.channels == 2 and np.allclose(loaded.samples, (left + right) / 2, atol=1e-6)


def test_floats_beyond_full_scale_are_limited(recordings: Recordings) -> None:
    loaded = load_audio(recordings.write("a.wav", 4 * sine(440, SAMPLE_RATE), subtype="FLOAT"))
    assert loaded.samples.max() == 1 and loaded.samples.min() == -1


def test_missing_file(tmp_path: Path) -> None:
    assert rejection(tmp_path / "wavs" / "a.wav") == "missing file: wavs/a.wav"
    assert rejection(tmp_path).startswith("missing file")


@pytest.mark.parametrize(("name", "content"), [("a.wav", b""), ("a.wav", b"garbage" * 99), ("a.raw", b"\0" * 99)])
def test_undecodable(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert rejection(tmp_path / name).startswith("undecodable: ")


@pytest.mark.parametrize(("samples", "rate"), [(0, SAMPLE_RATE), (0, 8_000), (1, 192_000)])
def test_zero_length(recordings: Recordings, samples: int, rate: int) -> None:
    path = recordings.write("a.wav", np.zeros(samples, np.float32), rate)
    assert rejection(path) == "empty: it has no samples"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_a_file_cut_in_the_middle_is_rejected(recordings: Recordings, name: str) -> None:
    path = recordings.write(name, noise(1, 3.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert rejection(path).split(":")[0] in ("truncated", "undecodable")


def test_a_wav_written_to_a_pipe_is_accepted(recordings: Recordings) -> None:
    samples = noise(1, 1.0)
    path = recordings.write("a.wav", samples)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFF_FFFF)  # the sizes were not known yet
    path.write_bytes(content)
    assert np.array_equal(load_audio(path).samples, samples)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(recordings: Recordings, value: float) -> None:
    samples = noise(1, 1.0)
    samples[100] = value
    assert rejection(recordings.write("a.wav", samples, subtype="FLOAT")).startswith("not finite")


def test_far_too_long_is_rejected_before_decoding(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recordings.write("a.wav", np.zeros(8_000 * (audio.MAX_SECONDS + 1), np.float32), 8_000, "PCM_U8")
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert rejection(path).startswith("far too long: 601 s at 8000 Hz")


def test_a_lying_sample_rate_does_not_get_around_the_bound(
    recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_VALUES", 50_000)
    path = recordings.write("a.wav", noise(1, 2.5), 1_000_000)
    assert rejection(path).startswith("far too long: 0 s at 1000000 Hz × 1 channel(s)")


def test_written_as_soundfile_does_and_named_where_it_cannot(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(440, 22_050), 22_050)
    soundfile.write(tmp_path / "b.wav", sine(440, 22_050), 22_050, subtype="PCM_16")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left on device"):
            write_wav(Path("/dev/full"), sine(440, 22_050), 22_050)


def test_quantising_16_bit_values_is_exact_for_all_of_them() -> None:
    pcm = np.arange(-32_768, 32_768, dtype=np.int16)
    assert np.array_equal(quantise(dequantise(pcm)), pcm)
    assert dequantise(pcm).dtype == np.float32


def test_quantising_rounds_and_saturates() -> None:
    values = np.array([1.0, -1.0, 0.6 / 32_768, -0.6 / 32_768], np.float32)
    assert quantise(values).tolist() == [32_767, -32_768, 1, -1]
