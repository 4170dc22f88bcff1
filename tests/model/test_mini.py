"""The base built from recordings alone: repeatable, and good enough to learn from."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from making.project import PROJECT
from making.recordings import noise

from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.base import Base

FILES = ("config.json", "dvae.safetensors", "gpt.safetensors", "mel_stats.safetensors", "vocab.json")


def transcripts() -> list[tuple[str, str]]:
    lines = (PROJECT / "samples" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    return [(line.split("|")[2], "en") for line in lines]


def build(folder: Path, sounds: list[mini.Waveform], seed: int = 1) -> dict[str, Any]:
    folder.mkdir()
    mini.train_vocabulary(transcripts(), folder / "vocab.json")
    return mini.build(folder, lambda i: sounds[i], len(sounds), seed)


def digests(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


def open_base(folder: Path, info: dict[str, Any]) -> Base:
    gpt = {"path": "gpt.safetensors", "sha256": sha256_file(folder / "gpt.safetensors")}
    write_json(folder / "base.json", {**info, "vocoder": "griffin_lim", "gpt": gpt})
    return Base(folder, folder)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "AUTOENCODER_STEPS", 6)
    monkeypatch.setattr(mini, "DECODER_STEPS", 4)


def test_the_vocabulary_spells_every_transcript(tmp_path: Path) -> None:
    mini.train_vocabulary(transcripts(), tmp_path / "vocab.json")
    tokenizer = xtts.build_tokenizer(tmp_path / "vocab.json")
    lengths = [len(xtts.encode_text(tokenizer, *text)) for text in transcripts()]
    assert tokenizer.get_number_tokens() == mini.TEXT_TOKENS
    assert np.mean(lengths) < 0.7 * np.mean([len(text) for text, _ in transcripts()])  # not letter by letter
    tokens = read_json(tmp_path / "vocab.json")["model"]["vocab"]
    assert (tokens["[STOP]"], tokens["[UNK]"], tokens["[SPACE]"]) == (0, xtts.UNKNOWN_TOKEN, 2)


def test_the_vocabulary_spells_what_transcripts_lack(tmp_path: Path) -> None:
    mini.train_vocabulary([("Nobody asks here.", "en")], tmp_path / "vocab.json")
    tokenizer = xtts.build_tokenizer(tmp_path / "vocab.json")
    assert xtts.encode_text(tokenizer, "Which planet is it, quiz-master?", "en")


@pytest.mark.usefixtures("hasty")
def test_seed_and_recordings_decide(tmp_path: Path) -> None:
    sounds = [noise(i, 1 + i / 2) for i in range(5)]
    builds = [build(tmp_path / "a", sounds), build(tmp_path / "b", sounds)]
    assert builds[0] == builds[1]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    build(tmp_path / "other seed", sounds, seed=2)
    build(tmp_path / "other sounds", sounds[:-1])
    changed = [
        {n for n in FILES if digests(tmp_path / k)[n] != digests(tmp_path / "a")[n]}
        for k in ("other seed", "other sounds")
    ]
    assert {"dvae.safetensors", "gpt.safetensors"} <= changed[0]
    assert {"dvae.safetensors", "mel_stats.safetensors"} <= changed[1]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seconds", [[0.5], [0.6, 0.5, 1.0]])
def test_seconds_of_audio_are_enough_to_build(tmp_path: Path, seconds: list[float]) -> None:
    sounds = [noise(i, s) for i, s in enumerate(seconds)]
    info = build(tmp_path / "base", sounds)
    assert 0 < info["codec_mse"] < 100  # type: ignore[operator]
    base = open_base(tmp_path / "base", info)
    mel = xtts.build_codec_mel(base.mel_stats())(torch.from_numpy(sounds[0])[None])
    codes = base.codec().get_codebook_indices(mel)
    assert codes.shape[1] >= len(sounds[0]) // 1024
    assert base.codec().decode(codes)[0].isfinite().all()
    assert base.gpt().layers == mini.GPT_SHAPE["gpt_layers"]
    assert base.sizes()["parameters"] == sum(p.numel() for p in base.gpt().parameters())


@pytest.mark.usefixtures("hasty")
def test_memory_is_bounded_on_large_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "MAX_CODEC_CLIPS", 3)
    monkeypatch.setattr(mini, "MAX_CODEC_VECTORS", 40)
    sounds = [noise(i, 1.0) for i in range(20)]
    read: list[int] = []
    (tmp_path / "base").mkdir()
    mini.train_vocabulary(transcripts(), tmp_path / "base" / "vocab.json")
    mini.build(tmp_path / "base", lambda i: (read.append(i), sounds[i])[1], len(sounds), 1)
    assert len(read) == 3


@pytest.mark.slow
def test_the_codec_uses_its_codes(tmp_path: Path) -> None:
    """A collapsed codebook makes Mel CE fall without meaning anything."""
    files = sorted((PROJECT / "samples" / "wavs").iterdir())[:120]
    sounds = [soundfile.read(file, dtype="float32")[0] for file in files]
    info = build(tmp_path / "a", sounds)
    base = open_base(tmp_path / "a", info)
    codec, mel = base.codec(), xtts.build_codec_mel(base.mel_stats())
    counts: Counter[int] = Counter()
    with torch.inference_mode():
        for sound in sounds:
            counts.update(codec.get_codebook_indices(mel(torch.from_numpy(sound)[None]))[0].tolist())
    shares = np.array(list(counts.values())) / counts.total()
    assert np.exp(-(shares * np.log(shares)).sum()) > 500
    assert info["codec_mse"] < 0.2  # type: ignore[operator]
