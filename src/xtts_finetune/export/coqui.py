"""The files that Coqui's `Xtts.load_checkpoint` reads from a folder: TTS/tts/models/xtts.py of coqui-tts 0.28.0."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.utils import CallbackIOWrapper

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.digests import DIGESTS
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, CONFIG, COQUI_MODEL, COQUI_SPEAKERS, VOCABULARY, VOCODER
from xtts_finetune.diskspace.sizes import WEIGHT_BYTES
from xtts_finetune.export.source import DAMAGED, TITLE, Files
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import make_deterministic
from xtts_finetune.model.published import PUBLISHED
from xtts_finetune.model.xtts import GPT
from xtts_finetune.speech.speaker import Speaker

_BLOCK = 1 << 22  # bytes


def write_model(folder: Path, files: Files, sha256: str, speaker: str, half: bool) -> list[Path]:
    """Fill `folder` with config.json, vocab.json, model.pth and speakers_xtts.pth. On the CPU: a GPU may be training.

    Args:
        sha256: what the weights must have.
        speaker: the name of the voice.
        half: weights in fp16.

    Returns:
        The files of which nobody wrote down what SHA-256 they must have.

    Raises:
        UserError: the weights, or what they speak with, are others than they were; or they do not fit each other.
    """
    make_deterministic()
    base, (digests, parameters) = Base(files.base, files.root), _told(files)
    expected = {files.weights: sha256, **digests}
    read, beside = sum(file.stat().st_size for file in expected), (base.folder / VOCODER).stat().st_size
    whole = max(files.weights.stat().st_size, WEIGHT_BYTES * parameters)  # frozen weights may not be in the file
    total = read + (whole + beside) // (2 if half else 1)  # bytes read, and written
    with Bar(total=total, unit="B", unit_scale=True, desc="checking the files") as bar:
        for checked, digest in expected.items():
            _refuse_changed(checked, digest, bar)
        bar.set_description("computing the voice")
        gpt = base.gpt(files.weights)
        weights = dict(_weights(base, gpt.state_dict(), half))
        voice = _voice(gpt, base, files)  # last: it changes the network
        bar.set_description(f"writing {COQUI_MODEL}")
        with (folder / COQUI_MODEL).open("wb") as file:
            # never above its total, which leaves out what zip adds
            counted = CallbackIOWrapper(lambda written: bar.update(min(written, total - bar.n)), file, "write")
            torch.save({"model": weights}, counted)
            bar.set_description("waiting for the disk")
            file.flush()
            os.fsync(file.fileno())
    torch.save({speaker: voice}, folder / COQUI_SPEAKERS)
    for name in (CONFIG, VOCABULARY):
        shutil.copyfile(files.base / name, folder / name)
    return [file for file in files.vouched if file not in expected]


def _told(files: Files) -> tuple[dict[Path, str], int]:
    """What SHA-256 base.json wants those files to have that it vouches for; how many parameters the network has.

    Where a version of before wrote it, it vouches for none.

    Raises:
        UserError: it is damaged.
    """
    place = files.base / BASE_INFO
    try:
        info = read_json(place)
        told = info.get(DIGESTS, {})
        names = {file: file.relative_to(files.base.parent).as_posix() for file in files.vouched}
        return {file: str(told[name]) for file, name in names.items() if name in told}, int(info["gpt"]["parameters"])
    except DAMAGED as error:
        raise UserError(TITLE, [Problem(str(place), f"cannot be read: {error!r}", "choose another model")]) from None


def is_published(base: Path) -> bool:
    """Whether the base in this folder is XTTS v2 as Coqui published it."""
    digest: str = read_json(base / BASE_INFO)["gpt"]["sha256"]
    return digest == PUBLISHED["model.pth"]


def _refuse_changed(file: Path, sha256: str, bar: "Bar") -> None:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != sha256:
        what = f"is damaged, or another model's: its SHA-256 is {digest.hexdigest()[:12]}…, not {sha256[:12]}…"
        remedy = "choose another model; models/, checkpoints/ and prepared/ come back by: dvc checkout --force"
        raise UserError(TITLE, [Problem(str(file), what, remedy)])


def _voice(gpt: GPT, base: Base, files: Files) -> dict[str, Tensor]:
    """The reference as this model hears it, in the order in which Coqui takes it.

    Returns:
        gpt_cond_latent (1, 32, model_dim) and speaker_embedding (1, d_vector_dim, 1), as of
        `Xtts.get_conditioning_latents` and as the samples of `evaluate` were spoken with.
    """
    speaker = Speaker(gpt, base, files.reference, files.settings, torch.device("cpu"))
    embedding: Tensor = speaker.vocoder.speaker  # type: ignore[union-attr]  # of XTTS v2's vocoder
    # copies of their own: views would be stored with all that they are views of
    return {
        "gpt_cond_latent": speaker.prompt.cpu().contiguous().clone(),
        "speaker_embedding": embedding.cpu().contiguous().clone(),
    }


def _weights(base: Base, gpt: dict[str, Tensor], half: bool) -> Iterator[tuple[str, Tensor]]:
    """All tensors of Coqui's class under its names."""
    for prefix, state in (("gpt.", gpt), ("hifigan_decoder.", load_file(base.folder / VOCODER))):
        for name, tensor in state.items():
            yield prefix + name, _halved(tensor) if half else tensor
    yield "mel_stats", base.mel_stats()


def _halved(tensor: Tensor) -> Tensor:
    """In fp16; as it is where that cannot hold it: counters, and values above 65 504."""
    halved = tensor.half() if tensor.is_floating_point() else tensor
    return halved if bool(halved.isfinite().all()) else tensor
