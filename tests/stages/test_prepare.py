"""The codes that `prepare` writes: they are what is trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from making.project import SAMPLES
from making.recordings import add_samples

from xtts_finetune.core.params import load_params
from xtts_finetune.data.audio import load_audio
from xtts_finetune.data.clips import read_metadata
from xtts_finetune.data.dataset import accept, write_features
from xtts_finetune.data.features import FeatureReader, code_count
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.device import make_deterministic
from xtts_finetune.model.parts import PUBLISHED_CODEC
from xtts_finetune.stages.prepare import Codec, single_threaded

CLIPS = 12


def codec(shape: dict[str, int]) -> Codec:
    torch.manual_seed(0)
    return Codec(xtts.build_dvae(**shape).eval(), torch.full((xtts.MEL_CHANNELS,), 5.0))


def encoded(folder: Path, shape: dict[str, int]) -> tuple[FeatureReader, Codec]:
    """Features of some samples, and what encoded them."""
    make_deterministic()
    add_samples(folder / "data", CLIPS)
    params = load_params(SAMPLES.parent / "params.yaml").prepare
    accepted, _ = accept(read_metadata(folder / "data", params.language), params, lambda text, language: [1])
    encoder = codec(shape)
    with single_threaded():
        write_features(folder, "train", accepted, encoder)
    return FeatureReader(folder, "train"), encoder


@pytest.mark.parametrize("shape", [mini.CODEC_SHAPE, PUBLISHED_CODEC], ids=["mini", "published"])
def test_codes_are_those_of_each_clip_by_itself(tmp_path: Path, shape: dict[str, int]) -> None:
    """Of all threads at once, unpadded, by Coqui's own function; in fp32 on whatever device."""
    reader, encoder = encoded(tmp_path, shape)
    assert len(reader) == CLIPS
    counts = np.zeros(1024, np.int64)
    for index in range(CLIPS):
        example = reader[index]
        samples = load_audio(tmp_path / "data" / "wavs" / f"{example.entry.id}.ogg").samples
        mel = encoder.mel(torch.from_numpy(samples)[None].to(encoder.device))
        codes = encoder.dvae.get_codebook_indices(mel)[0].cpu().numpy()
        assert np.array_equal(example.codes, codes[: code_count(len(samples))])
        counts += np.bincount(codes, minlength=1024)
    assert np.array_equal(encoder.counts, counts)  # none is lost between threads


def test_threads_are_as_they_were_afterwards() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_threaded():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_a_gpu_gives_the_same_codes_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, encoder = encoded(tmp_path / "a", PUBLISHED_CODEC)
    other, _ = encoded(tmp_path / "b", PUBLISHED_CODEC)
    assert encoder.device.type == "cuda"
    for index in range(CLIPS):
        assert np.array_equal(one.codes(index), other.codes(index))
