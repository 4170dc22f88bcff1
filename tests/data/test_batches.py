"""Batches: every clip once, alike in length, the same for the same arguments, and as Coqui makes them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from making.batches import collated
from making.recordings import noise
from stand_ins import accepted_clip, encode_audio

from xtts_finetune.data.batches import (
    CONDITIONING_MAX,
    CONDITIONING_MIN,
    CONDITIONING_STEP,
    Budget,
    conditioning_length,
    epoch_batches,
    eval_groups,
    rng,
    torch_seed,
)
from xtts_finetune.data.features import FeatureReader, FeatureWriter

SHARED = Path(__file__).resolve().parents[3] / "shared"
LENGTHS = np.random.default_rng(3).integers(20, 250, 265)


def flat(batches: list[npt.NDArray[np.int64]]) -> list[int]:
    return np.concatenate(batches).tolist()


@pytest.mark.parametrize(("count", "batch_size"), [(265, 3), (265, 8), (265, 1), (5, 8), (256, 16), (1, 1)])
def test_every_clip_once(count: int, batch_size: int) -> None:
    batches = epoch_batches(LENGTHS[:count], batch_size, 42, "phase1", 0)
    assert sorted(flat(batches)) == list(range(count))
    assert len(batches) == -(-count // batch_size)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_equal_arguments_give_equal_batches_in_any_process() -> None:
    code = (
        "import numpy as np; from xtts_finetune.data.batches import *; "
        "print(np.concatenate(epoch_batches(np.arange(40) % 7, 3, 42, 'phase2', 5)).tolist(), torch_seed('a', 1))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    here = f"{flat(epoch_batches(np.arange(40) % 7, 3, 42, 'phase2', 5))} {torch_seed('a', 1)}\n"
    assert outputs == [here, here]


def test_seed_phase_and_epoch_each_change_the_order() -> None:
    orders = [
        flat(epoch_batches(LENGTHS, 3, seed, phase, epoch))
        for seed, phase, epoch in [(42, "phase1", 0), (43, "phase1", 0), (42, "phase2", 0), (42, "phase1", 1)]
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_batches_hold_clips_of_like_length() -> None:
    def padding(batches: list[npt.NDArray[np.int64]]) -> int:
        return sum(int(LENGTHS[batch].max() * len(batch) - LENGTHS[batch].sum()) for batch in batches)

    shuffled = np.random.default_rng(0).permutation(264).reshape(-1, 8)
    assert padding(epoch_batches(LENGTHS[:264], 8, 42, "phase1", 0)) < 0.25 * padding(list(shuffled))


def test_the_order_of_batches_does_not_follow_length() -> None:
    means = [LENGTHS[batch].mean() for batch in epoch_batches(LENGTHS[:48], 3, 42, "phase1", 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_a_budget_of_tokens_fills_batches_with_short_clips() -> None:
    """None has more tokens than it may, nor more clips; a clip above the budget is alone; none could take one more."""
    tokens = LENGTHS * 2
    batches = epoch_batches(LENGTHS, 16, 42, "phase1", 0, Budget(tokens, 400))
    assert sorted(flat(batches)) == list(range(len(LENGTHS)))
    assert all(tokens[batch].sum() <= 400 or len(batch) == 1 for batch in batches)
    assert max(map(len, batches)) > 5 and min(map(len, batches)) == 1
    assert max(map(len, epoch_batches(LENGTHS, 3, 42, "phase1", 0, Budget(tokens, 10**6)))) == 3


def test_rng_is_fixed_for_ever() -> None:
    assert rng("batches", 42, "phase1", 0).integers(0, 1000, 5).tolist() == [304, 115, 455, 415, 145]
    assert rng("a", 1).random() != rng("a", 2).random() != rng("b", 1).random()


def test_torch_seed_has_63_bits_and_differs_by_part() -> None:
    seeds = [torch_seed("dropout", 42, step) for step in range(200)]
    assert len(set(seeds)) == 200
    assert 2**62 < max(seeds) < 2**63 and min(seeds) >= 0


def test_prompts_of_evaluation_have_the_middle_length() -> None:
    assert conditioning_length(np.array([200_000]), None) == 99_225
    assert conditioning_length(np.array([99_225]), None) == 99_225
    assert conditioning_length(np.array([99_224]), None) == 44_100  # half of it, in half seconds


def test_prompts_of_training_have_random_lengths() -> None:
    lengths = {conditioning_length(np.array([150_000]), rng("test", draw)) for draw in range(200)}
    assert lengths == set(range(CONDITIONING_MIN, CONDITIONING_MAX + 1, CONDITIONING_STEP))


def test_the_shortest_clip_decides_for_its_batch() -> None:
    samples = np.array([150_000, 30_000, 70_000])
    assert {conditioning_length(samples, rng("test", draw)) for draw in range(50)} == {11_025}
    assert conditioning_length(np.array([12_000]), rng("test")) == 4_096  # shorter than a step: in windows
    assert conditioning_length(np.array([3_000]), rng("test")) == 2_048  # but a window at the least
    assert conditioning_length(np.array([1_500]), rng("test")) == 1_500


@pytest.fixture
def reader(tmp_path: Path) -> FeatureReader:
    with FeatureWriter(tmp_path, "train") as writer:
        for index, seconds in enumerate((6.0, 1.0, 3.5)):
            samples = noise(index, seconds)
            writer.add(accepted_clip("x", "x").clip, samples, encode_audio(samples), np.arange(1, 4 + index))
    return FeatureReader(tmp_path, "train")


def test_collate_lays_clips_end_to_end(reader: FeatureReader) -> None:
    batch = collated(reader, [2, 1])
    assert batch.text.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4] and batch.text.dtype == np.int32
    assert batch.text_lengths.tolist() == [5, 4] and batch.code_lengths.tolist() == [76, 22]
    assert np.array_equal(batch.codes, np.concatenate([reader[2].codes, reader[1].codes]))
    assert batch.conditioning.shape == (2, 11_025) and batch.conditioning.dtype == np.float32
    assert batch.conditioning_spans.tolist() == [[0, 11_025], [0, 11_025]]
    for row, index in enumerate([2, 1]):
        assert np.array_equal(batch.conditioning[row], noise(index, reader[index].entry.seconds)[:11_025])


def test_collate_for_training_follows_its_place(reader: FeatureReader) -> None:
    one, again, other = (collated(reader, [0, 2], ("slice", step)) for step in (1, 1, 2))
    assert np.array_equal(one.conditioning_spans, again.conditioning_spans)
    assert not np.array_equal(one.conditioning_spans, other.conditioning_spans)
    for row, index in enumerate([0, 2]):
        start, end = one.conditioning_spans[row]
        assert 0 <= start < end <= reader.samples[index]
        assert np.array_equal(one.conditioning[row], reader.audio_slice(index, start, end - start))


def test_groups_of_evaluation_shorten_nobodys_prompt(reader: FeatureReader) -> None:
    groups = eval_groups(reader, 2)
    assert sorted(np.concatenate(groups).tolist()) == [0, 1, 2]
    for group in groups:
        alone = [conditioning_length(reader.samples[[index]], None) for index in group]
        assert set(alone) == {collated(reader, group).conditioning.shape[1]}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which only a development checkout has")
def test_evaluation_batch_equals_coquis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.layers.xtts.trainer import dataset as coqui

    torch.set_num_threads(threads)  # importing Coqui's dataset sets it to 1
    monkeypatch.setattr(
        coqui, "load_audio", lambda path, _: torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
    )
    tokenizer = VoiceBpeTokenizer(SHARED / "xtts_v2" / "vocab.json")
    data = SHARED / "ljspeech-311"
    rows = [line.split("|") for line in (data / "metadata.csv").read_text(encoding="utf-8").splitlines()[:6]]
    samples = [{"text": row[2], "audio_file": f"{data}/wavs/{row[0]}.wav", "language": "en"} for row in rows]
    arguments = SimpleNamespace(
        debug_loading_failures=True,
        max_conditioning_length=132_300,
        min_conditioning_length=66_150,
        max_wav_length=255_995,
        max_text_length=200,
        gpt_use_masking_gt_prompt_approach=True,
    )
    theirs_set = coqui.XTTSDataset(SimpleNamespace(model_args=arguments), samples, tokenizer, 22_050, is_eval=True)
    assert len(theirs_set) == 6
    theirs = theirs_set.collate_fn([theirs_set[index] for index in range(6)])

    with FeatureWriter(tmp_path, "eval") as writer:
        for sample in samples:
            audio = soundfile.read(sample["audio_file"], dtype="float32")[0]
            tokens = np.array(tokenizer.encode(sample["text"], "en"))
            writer.add(accepted_clip("x", sample["text"]).clip, audio, encode_audio(audio), tokens)
    reader = FeatureReader(tmp_path, "eval")
    ours = collated(reader, range(6))
    of_a_clip = [
        row[:length].numpy() for row, length in zip(theirs["padded_text"], theirs["text_lengths"], strict=True)
    ]
    assert np.array_equal(ours.text, np.concatenate(of_a_clip))
    assert np.array_equal(ours.text_lengths, theirs["text_lengths"].numpy())
    assert np.array_equal(reader.samples, theirs["wav_lengths"].numpy())
    for index in range(6):  # alone, a clip has Coqui's prompt, in half seconds and without the silence behind it
        prompt = collated(reader, [index]).conditioning[0]
        end = int(theirs["cond_idxs"][index, 1])
        assert 0 <= end - len(prompt) < CONDITIONING_STEP
        assert np.array_equal(prompt, theirs["conditioning"][index, 0, 0, : len(prompt)].numpy())
    assert len(set(theirs["cond_idxs"][:, 1].tolist())) > 1  # long and short clips are both there
