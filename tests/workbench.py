"""What these tests share: a workspace with a tiny GPT and a few clips of noise, and training in it without MLflow."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import FEATURES, PhaseName, SplitName, Workspace
from xtts_finetune.core.params import Params, PhaseParams, load_params
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureWriter, code_count
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.base import PUBLISHED_CODEC
from xtts_finetune.tracking.curve import Curve, as_text, parse_rows
from xtts_finetune.training.claim import claim
from xtts_finetune.training.interrupts import StopRequest
from xtts_finetune.training.loop import fit
from xtts_finetune.training.phases import Job, publish_outs, summary
from xtts_finetune.training.run import Run

ROOT = Path(__file__).parents[1]
TINY = {"gpt_layers": 1, "gpt_n_model_channels": 64, "gpt_n_heads": 2, "decoder_input_dim": 64}
TRAIN_SECONDS = (0.6, 1.0, 0.9, 1.4, 0.7, 1.2, 0.8, 1.1, 1.3)
EVAL_SECONDS = (0.7, 1.5, 1.0)
TEXT = "The quick brown fox, and the lazy dog!"
PHASE = PhaseParams(
    epochs=2,
    batch_size=2,
    accumulate=2,
    optim="adamw",
    lr=1e-3,
    schedule="constant",
    warmup_steps=2,
    weight_decay=0.01,
    grad_clip=1.0,
    precision="fp32",
    mask_prompt=False,
    target_mel_ce=None,
    patience=None,
)


def make_params(save_every_steps: int = 2, keep_last: int = 2, **changes: Any) -> Params:
    """Of the starter run, with PHASE and `changes` for both phases."""
    starter = load_params(ROOT / "params.yaml")
    phase = PhaseParams(**{**PHASE.model_dump(), **changes})
    checkpoints = starter.checkpoints.model_copy(update={"save_every_steps": save_every_steps, "keep_last": keep_last})
    return starter.model_copy(update={"train_phase1": phase, "train_phase2": phase, "checkpoints": checkpoints})


def noise(seed: int, seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE)).clip(-1, 1).astype(np.float32)


def make_workspace(root: Path) -> Workspace:
    """A workspace as `prepare` would leave it: a base with a tiny GPT and DVAE of random weights, and features."""
    workspace = Workspace(root)
    base = workspace.prepared / "base"
    base.mkdir(parents=True)
    mini.train_vocabulary([(TEXT, "en")], base / "vocab.json")
    tokenizer = xtts.build_tokenizer(base / "vocab.json")
    args = xtts.default_args(**TINY)
    write_json(base / "config.json", xtts.default_config(args))
    torch.manual_seed(0)
    model = xtts.build_gpt(args, tokenizer)
    save_file(model.state_dict(), base / "gpt.safetensors")
    save_file(xtts.build_dvae(**mini.CODEC_SHAPE).state_dict(), base / "dvae.safetensors")
    save_file({"mel_stats": torch.full((80,), 5.0)}, base / "mel_stats.safetensors")
    gpt = {"path": "prepared/base/gpt.safetensors", "sha256": sha256_file(base / "gpt.safetensors")}
    gpt |= {"parameters": xtts.count_parameters(model)}
    write_json(base / "base.json", {"vocoder": "griffin_lim", "codec": mini.CODEC_SHAPE, "gpt": gpt})
    digests: dict[str, str] = {}
    splits: tuple[tuple[SplitName, tuple[float, ...]], ...] = (("train", TRAIN_SECONDS), ("eval", EVAL_SECONDS))
    for split, lengths in splits:
        with FeatureWriter(workspace.prepared, split) as writer:
            for i, seconds in enumerate(lengths):
                audio = noise(i, seconds)
                random = np.random.default_rng(100 + i)
                codes = random.integers(0, 8, code_count(len(audio)))  # few, so that there is something to learn
                tokens = random.integers(5, tokenizer.get_number_tokens(), 4 + 3 * i)
                writer.add(Clip(f"{split}{i}", root / "none.wav", TEXT, "en", "a", i), audio, codes, tokens)
        digests |= writer.digests
    write_json(workspace.prepared / FEATURES, digests)
    return workspace


@dataclass
class StoppingTracker:
    """Sends the stop request, as a signal would, when it hears of this step."""

    at: int | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.append((step, metrics))
        if step == self.at and "train/loss" in metrics:
            self.stop.signal = signal.SIGTERM


def make_run(
    workspace: Workspace,
    params: Params,
    stop_at: int | None = None,
    name: PhaseName = "phase1",
    record: Record | None = None,
) -> Run:
    """A run in a new process's stead: nothing in it comes from the one before."""
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    store.folder.mkdir(parents=True, exist_ok=True)
    curve = Curve(workspace.running_curve(name))
    tracker = StoppingTracker(stop_at)
    job, every = Job(workspace, params, name), params.checkpoints.save_every_steps
    return Run(job.inputs(), record or Record(job.identity), store, curve, tracker, every)


def stop_of(run: Run) -> StopRequest:
    assert isinstance(run.tracker, StoppingTracker)
    return run.tracker.stop


def train(
    workspace: Workspace,
    params: Params,
    stop_at: int | None = None,
    name: PhaseName = "phase1",
    is_kept: bool = False,
) -> None:
    """As stages/train.py does, without MLflow; `is_kept`: DVC's cache has the done run in work/."""
    job = Job(workspace, params, name)
    store = CheckpointStore(workspace.work(name), params.checkpoints.keep_last)
    with store.locked():
        claimed = claim(job, store, lambda: is_kept)
        if not store.done:
            run = make_run(workspace, params, stop_at, name, claimed.record)
            store.mark_done(summary(run, claimed.record, fit(run, claimed.state, stop_of(run))))
        publish_outs(job, store)


def outcome(workspace: Workspace, name: PhaseName = "phase1") -> dict[str, Any]:
    """All that must be the same however often a run was interrupted."""
    states = sorted(workspace.checkpoints(name).glob("*/*"))
    curve = Curve(workspace.running_curve(name))
    return {
        "best": sha256_file(workspace.model(name) / "model.safetensors"),
        "last state": {file.name: sha256_file(file) for file in states if file.parent == states[-1].parent},
        "figures": read_json(workspace.metrics(name)),
        "csv": workspace.curve(name).read_text(),
        "curve": list(parse_rows(as_text(curve.rows))),
    }


def flip_byte(path: Path, at: int = -5) -> None:
    """Change a byte in place, as a failing disk would: other names of the file see it too."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rows_of(workspace: Workspace, name: PhaseName = "phase1") -> list[dict[str, Any]]:
    """Of steps and evaluations."""
    return list(parse_rows(as_text(Curve(workspace.running_curve(name)).rows)))


def make_published(folder: Path, clips: list[Path]) -> Path:
    """Stand-ins for XTTS v2's published files: of its classes and format, small, of random weights.

    The DVAE has its true shape, which Coqui's GPTTrainer insists on, and a codebook that gives these clips many
    different codes.
    """
    folder.mkdir(parents=True)
    metadata = (ROOT / "samples" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    mini.train_vocabulary([(line.split("|")[2], "en") for line in metadata], folder / "vocab.json")
    tokenizer = xtts.build_tokenizer(folder / "vocab.json")
    args = xtts.default_args(**mini.GPT_SHAPE)
    write_json(folder / "config.json", xtts.default_config(args))

    mels = [xtts.build_codec_mel(None)(torch.from_numpy(soundfile.read(c, dtype="float32")[0])[None]) for c in clips]
    stats = torch.cat(mels, dim=2)[0].abs().mean(1)
    torch.save(stats, folder / "mel_stats.pth")
    torch.manual_seed(1)
    dvae = xtts.build_dvae(**PUBLISHED_CODEC).eval()
    with torch.no_grad():
        vectors = torch.cat([dvae.encoder(mel / stats[None, :, None])[0].T for mel in mels])
        dvae.codebook.embed.copy_(vectors[torch.randint(len(vectors), (1024,))].T)
    torch.save({**dvae.state_dict(), "discrete_loss.accumulator": torch.zeros(100, 1024)}, folder / "dvae.pth")

    gpt, vocoder = xtts.build_gpt(args, tokenizer), xtts.build_vocoder(args)
    state = {f"gpt.{name}": value for name, value in gpt.state_dict().items()}
    state |= {f"hifigan_decoder.{name}": value for name, value in vocoder.state_dict().items()}
    state |= {"mel_stats": stats}
    torch.save({"model": state}, folder / "model.pth")
    return folder


def sample_clips(folder: Path, count: int) -> list[tuple[Path, str]]:
    """(16-bit WAV at 22 050 Hz, text) of that many clips, from the longest to the shortest.

    They are the starter's, or those of the LJSpeech-like folder that XTTS_FINETUNE_TEST_CLIPS names.
    """
    source = Path(os.environ.get("XTTS_FINETUNE_TEST_CLIPS", ROOT / "samples"))
    files = sorted((source / "wavs").iterdir(), key=lambda file: -soundfile.info(file).duration)
    rows = (line.split("|") for line in (source / "metadata.csv").read_text(encoding="utf-8").splitlines())
    texts = {row[0]: row[2] for row in rows}
    folder.mkdir(parents=True)
    clips = []
    for file in files[:: -(-len(files) // count)]:
        sound, rate = soundfile.read(file)
        soundfile.write(folder / f"{file.stem}.wav", sound, rate, subtype="PCM_16")
        clips.append((folder / f"{file.stem}.wav", texts[file.stem]))
    return clips
