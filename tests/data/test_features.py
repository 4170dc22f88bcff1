"""Cached features come back exactly as they were written, and damage is noticed."""

import json
from pathlib import Path

import numpy as np
import pytest
from making.recordings import noise
from stand_ins import accepted_clip, encode_audio

from xtts_finetune.core.errors import UserError
from xtts_finetune.data.features import Entry, FeatureReader, FeatureWriter, code_count

LENGTHS = (1.0, 0.5, 2.345)


def written(prepared: Path) -> Path:
    with FeatureWriter(prepared, "train") as writer:
        for index, seconds in enumerate(LENGTHS):
            clip = accepted_clip(f"c{index}", f"Text {index} — “ü”", speaker="Ann").clip
            samples = noise(index, seconds)
            writer.add(clip, samples, encode_audio(samples), np.arange(index + 3) + 6000)
    return prepared


def test_round_trip_is_exact(tmp_path: Path) -> None:
    reader = FeatureReader(written(tmp_path), "train")
    assert len(reader) == 3
    for index, seconds in enumerate(LENGTHS):
        samples = noise(index, seconds)
        example = reader[index]
        count = code_count(len(samples))
        assert example.entry == Entry(
            f"c{index}", f"Text {index} — “ü”", "en", "Ann", seconds, len(samples), count, index + 3
        )
        assert np.array_equal(example.audio.astype(np.float32) / 32_768, samples)
        assert np.array_equal(example.codes, encode_audio(samples)[:count])
        assert np.array_equal(example.tokens, np.arange(index + 3) + 6000)
        assert np.array_equal(reader.audio_slice(index, 100, 5000), samples[100:5100])
    assert reader.samples.tolist() == [len(noise(0, seconds)) for seconds in LENGTHS]
    assert reader.n_codes.tolist() == [22, 11, 51] and reader.n_tokens.tolist() == [3, 4, 5]


def test_files_are_flat_and_little_endian(tmp_path: Path) -> None:
    written(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.jsonl",
        "train.audio.i16",
        "train.codes.i16",
        "train.tokens.i32",
    }
    assert (tmp_path / "train.tokens.i32").read_bytes()[:8] == bytes([0x70, 0x17, 0, 0, 0x71, 0x17, 0, 0])
    pcm = (noise(0, 1.0)[:3] * 32_768).astype("<i2")
    assert (tmp_path / "train.audio.i16").read_bytes()[:6] == pcm.tobytes()
    first = json.loads((tmp_path / "train.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert list(first) == ["id", "text", "language", "speaker", "seconds", "samples", "codes", "tokens"]


@pytest.mark.parametrize(("samples", "codes"), [(1, 1), (1024, 1), (1025, 2), (255_780, 250)])
def test_code_count(samples: int, codes: int) -> None:
    assert code_count(samples) == codes


def test_too_few_codes_are_a_bug(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, "eval") as writer, pytest.raises(AssertionError, match="2 codes for 22050 samples"):
        writer.add(accepted_clip("a", "x").clip, noise(0, 1), np.zeros(2, np.int64), np.zeros(1, np.int64))


def test_a_slice_stays_inside_its_clip(tmp_path: Path) -> None:
    reader = FeatureReader(written(tmp_path), "train")
    with pytest.raises(AssertionError):
        reader.audio_slice(0, 22_000, 51)
    assert len(reader.audio_slice(0, 22_000, 50)) == 50


def test_an_index_beyond_the_end(tmp_path: Path) -> None:
    reader = FeatureReader(written(tmp_path), "train")
    assert len(list(iter(reader[index] for index in range(3)))) == 3
    for index in (3, -1):
        with pytest.raises(IndexError):
            reader[index]


def test_files_are_opened_read_only(tmp_path: Path) -> None:
    example = FeatureReader(written(tmp_path), "train")[0]
    with pytest.raises(ValueError, match="read-only"):
        example.audio[0] = 1


@pytest.mark.parametrize("suffix", ["audio.i16", "codes.i16", "tokens.i32"])
@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_damaged_files_are_noticed(tmp_path: Path, suffix: str, damage: str) -> None:
    path = written(tmp_path) / f"train.{suffix}"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-2] if damage == "short" else content + b"\0\0")
    size = {"missing": 0, "short": len(content) - 2, "long": len(content) + 2}[damage]
    with pytest.raises(UserError) as caught:
        FeatureReader(tmp_path, "train")
    (problem,) = caught.value.problems
    assert problem.where == str(path) and problem.remedy == "dvc repro -f prepare"
    assert problem.what == f"has {size} bytes, its manifest says {len(content)}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "is empty"),
        ("{", r"train.jsonl:1\n.*is not a clip's entry"),
        ('{"id": "a"}\n', "is not a clip's entry"),
        ("7\n", "is not a clip's entry"),
    ],
)
def test_a_damaged_manifest_is_noticed(tmp_path: Path, content: str | None, message: str) -> None:
    manifest = written(tmp_path) / "train.jsonl"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        FeatureReader(tmp_path, "train")
