"""Recordings → accepted clips, a split, a base, cached features."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xtts_finetune.cards.consent import read_consent
from xtts_finetune.cards.data_card import FEATURES_DIGEST, data_card
from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.digests import DIGESTS, digests_of
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import published_folder, sha256_file, sha256_json, write_json
from xtts_finetune.core.layout import BASE_INFO, CONFIG, FEATURES, MEL_STATS, NEW_ROWS, REFERENCE, VOCABULARY, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.data.audio import load_audio, write_wav
from xtts_finetune.data.checks import Accepted, ClipRejected, EncodeText, Rejection
from xtts_finetune.data.clips import Clip, read_metadata
from xtts_finetune.data.dataset import accept, dataset_report, refuse_without_clips, write_features
from xtts_finetune.data.split import split
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import make_deterministic, pick_device
from xtts_finetune.model.importing import import_base
from xtts_finetune.model.published import base_folder, is_pinned
from xtts_finetune.model.xtts import DiscreteVAE, VoiceBpeTokenizer
from xtts_finetune.speech.speaker import refuse_unspeakable
from xtts_finetune.stages.extension import settle_vocabulary
from xtts_finetune.stages.figures import draw_lengths

REFERENCE_SECONDS = 12.0


def prepare(workspace: Workspace, params: Params) -> None:
    """Write prepared/, reports/dataset.{json,png} and croissant.json, or of clips that won't do dataset.json alone.

    Raises:
        UserError: metadata.csv, consent.yaml, the recordings or the base cannot be used.
    """
    make_deterministic()
    with published_folder(workspace.prepared) as prepared:
        base = prepared / "base"
        base.mkdir()
        clips, consent = read_metadata(workspace.data, params.prepare.language), read_consent(workspace)
        info, vocabulary = _open_base(workspace, params, base, clips)
        tokenizer = xtts.build_tokenizer(base / VOCABULARY)
        refuse_unspeakable(params.evaluate.sentences, params.prepare.language, tokenizer)
        accepted, rejected = accept(clips, params.prepare, _encoder(tokenizer))
        with _refusal_reported(workspace, accepted, rejected, vocabulary):
            refuse_without_clips(workspace.data, accepted, rejected)
            train, evaluation = split(accepted, params.prepare.eval_fraction, params.seed)
        if params.base == "mini":
            info |= mini.build(base, lambda i: load_audio(train[i].clip.audio).samples, len(train), params.seed)
            weights = base / "gpt.safetensors"
            info["gpt"] = {"path": f"prepared/base/{weights.name}", "sha256": sha256_file(weights)}
        info["files"] = {
            name: sha256_file(base / name) for name in (CONFIG, MEL_STATS, NEW_ROWS) if (base / name).exists()
        }
        opened = Base(base, workspace.root)
        info["gpt"] |= opened.sizes()
        write_json(base / BASE_INFO, info)
        codec = Codec(opened.codec(), opened.mel_stats())
        with single_threaded():
            digests = write_features(prepared, "train", train, codec)
            digests |= write_features(prepared, "eval", evaluation, codec)
        write_json(prepared / FEATURES, digests)
        _write_reference(prepared / REFERENCE, train)
        write_json(base / BASE_INFO, info | {DIGESTS: digests_of(prepared)})
    report = dataset_report(workspace.data, train, evaluation, rejected)
    report |= {"base": _base_report(info, codec), "vocabulary": vocabulary, FEATURES_DIGEST: sha256_json(digests)}
    write_json(workspace.dataset_report, {**report, "consent": consent and consent.model_dump(mode="json")})
    recordings = [item.clip.audio for item in (*train, *evaluation)]
    write_json(workspace.data_card, data_card(workspace, recordings, digests, list(report["languages"]), consent))
    draw_lengths(workspace.reports / "dataset.png", [c.seconds for c in train], [c.seconds for c in evaluation])
    counts = f"{len(train)} clips to train on, {len(evaluation)} to evaluate, {len(rejected)} rejected"
    print(f"{counts}: see reports/dataset.json")


@contextmanager
def _refusal_reported(
    workspace: Workspace, accepted: Sequence[Accepted], rejected: Sequence[Rejection], vocabulary: dict[str, Any]
) -> Iterator[None]:
    """Where the clips won't do, leave reports/dataset.json: which of them were rejected and why."""
    try:
        yield
    except UserError as error:
        report = dataset_report(workspace.data, accepted, [], rejected)
        write_json(workspace.dataset_report, {**report, "vocabulary": vocabulary, "refused": error.problems[0].what})
        raise


def _open_base(
    workspace: Workspace, params: Params, folder: Path, clips: Sequence[Clip]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fill `folder` with at least vocab.json; returns base.json's fields, as far as known, and what to report.

    All transcripts count, not the training clips' alone: a vocabulary must be able to spell every clip.
    """
    if params.base == "mini":
        mini.train_vocabulary([(clip.text, clip.language) for clip in clips], folder / VOCABULARY)
        return {"vocoder": "griffin_lim"}, {}
    info = import_base(base_folder(workspace, params.base), folder, workspace.root, is_pinned(params.base))
    return info, settle_vocabulary(workspace, params, folder, workspace.root / info["gpt"]["path"], clips)


def _encoder(tokenizer: VoiceBpeTokenizer) -> EncodeText:
    def encode(text: str, language: str) -> list[int]:
        try:
            return xtts.encode_text(tokenizer, text, language)
        except ValueError as error:
            raise ClipRejected(f"text not encodable: {error}") from None

    return encode


@contextmanager
def single_threaded() -> Iterator[None]:
    """Threads started meanwhile multiply by themselves: clips beside each other need not wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Codec:
    """Encodes clips one by one, unpadded, on the GPU if there is one, and counts the codes.

    Attributes:
        counts: (codes,) how often each was given.
    """

    def __init__(self, dvae: DiscreteVAE, mel_stats: Tensor) -> None:
        self.device = pick_device()
        self.dvae = dvae.to(self.device)
        self.mel = xtts.build_codec_mel(mel_stats.to(self.device)).to(self.device)
        self.counts: npt.NDArray[np.int64] = np.zeros(self.dvae.num_tokens, np.int64)
        self._counting = Lock()

    @torch.inference_mode()
    def __call__(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """(samples,) in [-1, 1] at SAMPLE_RATE → (codes,); from any thread."""
        mel = self.mel(torch.from_numpy(samples)[None].to(self.device))
        codes: npt.NDArray[np.int64] = xtts.encode_mel(self.dvae, mel)[0].cpu().numpy()
        with self._counting:
            self.counts += np.bincount(codes, minlength=len(self.counts))
        return codes

    @property
    def perplexity(self) -> float:
        """exp of the entropy of code use: 1024 when all are used alike, near 1 when the codebook has collapsed."""
        shares = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))


def _base_report(info: dict[str, Any], codec: Codec) -> dict[str, Any]:
    used = {"codes_used": int((codec.counts > 0).sum()), "codebook_perplexity": round(codec.perplexity, 1)}
    return used | {key: info[key] for key in ("codec_mse",) if key in info}


def _write_reference(path: Path, clips: Sequence[Accepted]) -> None:
    """Join clips of the most recorded speaker, of about 6 s each, into the voice that samples are spoken in."""
    speaker, _ = Counter(item.clip.speaker for item in clips).most_common(1)[0]
    candidates = [item for item in clips if item.clip.speaker == speaker]
    chosen: list[npt.NDArray[np.float32]] = []
    for item in sorted(candidates, key=lambda item: abs(item.seconds - REFERENCE_SECONDS / 2)):
        chosen.append(load_audio(item.clip.audio).samples)
        if sum(map(len, chosen)) >= REFERENCE_SECONDS * SAMPLE_RATE:
            break
    write_wav(path, np.concatenate(chosen), SAMPLE_RATE)
