"""Our losses are those of Coqui's own GPTTrainer, run here beside ours on the same weights and clips."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from making.batches import collated
from torch import Tensor
from torch.nn import functional as F

from xtts_finetune.core.constants import CODE_STRIDE
from xtts_finetune.core.layout import Workspace
from xtts_finetune.data.batches import CONDITIONING_MAX, Batch
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureReader, FeatureWriter
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.forward import Settings, conditioning_latents
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training import loss
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.packing import MicroBatch, SpecialTokens, pack

Clips = list[tuple[Path, str]]
CLOSE = {"rel": 1e-5, "abs": 1e-5}
BATCHES = [[0, 2, 4], [4, 2, 0], [0, 1, 2, 3, 4], [1], [4]]  # the clips are ordered by length: 4 is the shortest
STOP = 1025


@pytest.fixture(scope="module")
def ours(imported: Workspace, clips: Clips) -> FeatureReader:
    """The clips' features, made as `prepare` makes them."""
    base = Base(imported.prepared / "base", imported.root)
    codec, mel, tokenizer = base.codec(), xtts.build_codec_mel(base.mel_stats()), base.tokenizer()
    with FeatureWriter(imported.prepared, "eval") as writer, torch.inference_mode():
        for path, text in clips:
            audio = soundfile.read(path, dtype="float32")[0]
            codes = codec.get_codebook_indices(mel(torch.from_numpy(audio)[None]))[0].numpy()
            tokens = np.array(xtts.encode_text(tokenizer, text, "en"))
            writer.add(Clip(path.stem, path, text, "en", "a", 1), audio, codes, tokens)
    return FeatureReader(imported.prepared, "eval")


@pytest.fixture(scope="module")
def gpt(imported: Workspace) -> GPT:
    return with_attention(Base(imported.prepared / "base", imported.root).gpt().eval())


def with_attention(gpt: GPT) -> GPT:
    """New conditioning encoders start with attention that adds nothing: here it does, so that it is compared, too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in gpt.conditioning_encoder.attn:
            block.proj_out.weight.normal_(std=0.05, generator=generator)
    return gpt


@pytest.fixture(scope="module")
def conditioning_mel(imported: Workspace) -> Any:
    return xtts.build_conditioning_mel(Base(imported.prepared / "base", imported.root).mel_stats())


@pytest.fixture(scope="module")
def coqui(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Coqui's own trainer, set up as its recipe does, on the published files, but a copy of the one it rewrites."""
    model = tmp_path_factory.mktemp("coqui") / "model.pth"
    shutil.copy(published / "model.pth", model)
    threads = torch.get_num_threads()
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig
    from TTS.tts.models.xtts import XttsAudioConfig

    torch.set_num_threads(threads)  # the import sets it to 1
    shape = {name: value for name, value in xtts.default_args().items() if name.startswith("gpt_num_audio")}
    args = GPTArgs(
        mel_norm_file=str(published / "mel_stats.pth"),
        dvae_checkpoint=str(published / "dvae.pth"),
        xtts_checkpoint=str(model),
        tokenizer_file=str(published / "vocab.json"),
        gpt_layers=4,
        gpt_n_model_channels=256,
        gpt_n_heads=4,
        decoder_input_dim=256,
        gpt_start_audio_token=1024,
        gpt_stop_audio_token=STOP,
        gpt_use_masking_gt_prompt_approach=True,
        gpt_use_perceiver_resampler=True,
        **shape,
    )
    audio = XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000)
    trainer = GPTTrainer(GPTTrainerConfig(model_args=args, audio=audio)).eval()
    model.unlink()
    with_attention(trainer.xtts.gpt)
    return trainer


@pytest.fixture(scope="module")
def dataset(coqui: Any, clips: Clips) -> Iterator[Any]:
    from TTS.tts.layers.xtts.trainer import dataset

    def load_audio(path: os.PathLike[str], sample_rate: int) -> Tensor:
        """Coqui's own goes through torchcodec, and so needs ffmpeg's libraries; a WAV needs none."""
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == sample_rate
        return torch.from_numpy(sound.T.copy()).clip(-1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "load_audio", load_audio)
        samples = [{"text": text, "audio_file": str(path), "language": "en"} for path, text in clips]
        yield dataset.XTTSDataset(coqui.config, samples, coqui.xtts.tokenizer, 22050, is_eval=True)


def with_coquis_prompts(reader: FeatureReader, batch: Batch, indices: list[int]) -> Batch:
    """As Coqui prepares it: half of a short clip, whatever its neighbours, and silence up to 6 s."""
    ends = [99_225 if reader.samples[index] >= 99_225 else int(reader.samples[index]) // 2 for index in indices]
    conditioning = np.zeros((len(indices), CONDITIONING_MAX), np.float32)
    for row, (index, end) in enumerate(zip(indices, ends, strict=True)):
        conditioning[row, :end] = reader.audio_slice(index, 0, end)
    return replace(batch, conditioning=conditioning, conditioning_spans=np.array([[0, end] for end in ends]))


def coqui_batch(coqui: Any, dataset: Any, indices: list[int]) -> dict[str, Any]:
    batch: dict[str, Any] = coqui.format_batch_on_device(dataset.collate_fn([dataset[i] for i in indices]))
    return batch


def as_coqui_batch(coqui: Any, batch: Batch) -> dict[str, Any]:
    """Our batch in the form that GPTTrainer's steps take, its conditioning mels by Coqui's own code."""
    return {
        "text_inputs": padded(batch.text, batch.text_lengths),
        "text_lengths": torch.from_numpy(batch.text_lengths.copy()),
        "audio_codes": padded(batch.codes, batch.code_lengths),
        "wav_lengths": torch.from_numpy(batch.code_lengths * CODE_STRIDE),
        "cond_mels": coqui.torch_mel_spectrogram_style_encoder(torch.from_numpy(batch.conditioning)[:, None])[:, None],
        "cond_idxs": torch.from_numpy(batch.conditioning_spans.copy()),
        "cond_lens": None,
    }


def padded(rows: Any, lengths: Any) -> Tensor:
    """(clips, longest) with zeros behind each clip's own."""
    clips = [torch.from_numpy(part.astype(np.int64)) for part in np.split(rows, lengths.cumsum()[:-1])]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)


def packed(gpt: GPT, batch: Batch, mask_prompt: bool = False) -> MicroBatch:
    return pack(batch, SpecialTokens.of(gpt), mask_prompt, padding_free=False)


def own_sums(gpt: GPT, conditioning_mel: Any, micro: MicroBatch) -> TokenSums:
    mel, text = loss.losses(gpt, conditioning_mel, micro, Settings()).tolist()
    return TokenSums(mel, micro.targets.mel, text, micro.targets.text)


def test_the_weights_are_the_same(coqui: Any, gpt: GPT) -> None:
    theirs = coqui.xtts.gpt.state_dict()
    assert theirs.keys() == gpt.state_dict().keys()
    assert all(torch.equal(theirs[name], value) for name, value in gpt.state_dict().items())


@pytest.mark.parametrize("indices", BATCHES, ids=str)
def test_losses_of_our_batches(
    coqui: Any, ours: FeatureReader, gpt: GPT, conditioning_mel: Any, indices: list[int]
) -> None:
    batch = collated(ours, indices)
    with torch.no_grad():
        theirs = coqui.eval_step(as_coqui_batch(coqui, batch), None)[1]
        sums = own_sums(gpt, conditioning_mel, packed(gpt, batch))
    assert sums.mel_ce == pytest.approx(theirs["loss_mel_ce"].item(), **CLOSE)
    assert 0.01 * sums.text_ce == pytest.approx(theirs["loss_text_ce"].item(), **CLOSE)
    assert sums.loss == pytest.approx(theirs["loss"].item(), **CLOSE)


@pytest.mark.parametrize("indices", BATCHES, ids=str)
def test_gradients_of_our_batches(
    coqui: Any, ours: FeatureReader, gpt: GPT, conditioning_mel: Any, indices: list[int]
) -> None:
    """Of every weight, relative to that of Coqui's forward, whose losses `eval_step` returns without gradients."""
    batch = collated(ours, indices)
    micro = packed(gpt, batch)
    clips = as_coqui_batch(coqui, batch)
    names = ("text_inputs", "text_lengths", "audio_codes", "wav_lengths")
    text_ce, mel_ce, _ = coqui.xtts.gpt(*(clips[name] for name in names), cond_mels=clips["cond_mels"])
    (0.01 * text_ce + mel_ce).backward()
    (loss.losses(gpt, conditioning_mel, micro, Settings()) * micro.weights).sum().backward()
    theirs = {name: parameter.grad for name, parameter in coqui.xtts.gpt.named_parameters()}
    own = {name: parameter.grad for name, parameter in gpt.named_parameters()}
    coqui.xtts.gpt.zero_grad()
    gpt.zero_grad()
    assert all(gradient is not None and gradient.any() for gradient in own.values())
    apart = {name: ((own[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in own}
    assert sorted(apart.values())[-5:] == pytest.approx([0] * 5, abs=5e-5), max(apart, key=lambda name: apart[name])
    assert np.mean(list(apart.values())) < 1e-5


@pytest.mark.parametrize("padding", [False, True], ids=["alone", "with others"])
def test_conditioning_latents(gpt: GPT, conditioning_mel: Any, ours: FeatureReader, padding: bool) -> None:
    batch = collated(ours, [0, 3, 4] if padding else [0])
    with torch.no_grad():
        mels = conditioning_mel(torch.from_numpy(batch.conditioning))
        theirs = gpt.get_style_emb(mels).transpose(1, 2)
        torch.testing.assert_close(conditioning_latents(gpt, mels), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_losses_of_coquis_batches(
    coqui: Any, dataset: Any, ours: FeatureReader, gpt: GPT, conditioning_mel: Any, index: int
) -> None:
    """From the recording to the loss, each with its own code; clip by clip, since padding changes Coqui's codes."""
    theirs = coqui_batch(coqui, dataset, [index])
    batch = with_coquis_prompts(ours, collated(ours, [index]), [index])
    assert theirs["text_inputs"][0].tolist() == batch.text.tolist()
    assert theirs["wav_lengths"].tolist() == ours.samples[[index]].tolist()
    codes = theirs["audio_codes"][0, : len(batch.codes)]
    assert codes.tolist() == batch.codes.tolist()
    assert len(codes.unique()) > 5
    mels = conditioning_mel(torch.from_numpy(batch.conditioning))[:, None]
    torch.testing.assert_close(theirs["cond_mels"], mels, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        figures = coqui.eval_step(theirs, None)[1]
        own = own_sums(gpt, conditioning_mel, packed(gpt, batch))
    assert own.mel_ce == pytest.approx(figures["loss_mel_ce"].item(), **CLOSE)
    assert 0.01 * own.text_ce == pytest.approx(figures["loss_text_ce"].item(), **CLOSE)


def test_coquis_batch_of_several(coqui: Any, dataset: Any, ours: FeatureReader, conditioning_mel: Any) -> None:
    theirs = coqui_batch(coqui, dataset, [0, 2, 4])
    batch = with_coquis_prompts(ours, collated(ours, [0, 2, 4]), [0, 2, 4])
    assert torch.equal(theirs["text_inputs"].long(), padded(batch.text, batch.text_lengths))
    assert theirs["text_lengths"].tolist() == batch.text_lengths.tolist()
    assert theirs["cond_idxs"].tolist() == batch.conditioning_spans.tolist()
    mels = conditioning_mel(torch.from_numpy(batch.conditioning))[:, None]
    torch.testing.assert_close(theirs["cond_mels"], mels, rtol=1e-5, atol=1e-6)


def test_the_mask_by_hand(coqui: Any, ours: FeatureReader, gpt: GPT, conditioning_mel: Any) -> None:
    """Every row, in code units; Coqui's own mask covers the last row alone, in another unit."""
    indices = np.array([3, 0, 2])
    batch = collated(ours, indices, ("mask",))
    assert batch.conditioning_spans[:, 0].min() > 0
    theirs = as_coqui_batch(coqui, batch)
    with torch.no_grad():
        own = own_sums(gpt, conditioning_mel, packed(gpt, batch, mask_prompt=True))
        logits = coqui.xtts.gpt(
            theirs["text_inputs"],
            theirs["text_lengths"],
            theirs["audio_codes"],
            theirs["wav_lengths"],
            cond_mels=theirs["cond_mels"],
        )[2]
    sums, tokens = 0.0, 0
    for row, index in enumerate(indices):
        codes = ours[int(index)].codes.tolist()
        start, end = (int(at) // CODE_STRIDE for at in batch.conditioning_spans[row])
        for at, target in enumerate(codes + [STOP] * 4):
            if not start <= at < end:
                sums -= F.log_softmax(logits[row, :, at], dim=0)[target].item()
                tokens += 1
    assert tokens < len(batch.codes)
    assert own.mel_tokens == tokens
    assert own.mel_ce == pytest.approx(sums / tokens, **CLOSE)
