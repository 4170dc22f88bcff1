"""What a training step costs, beside Coqui's own trainer: same weights, clips and batches, in turn, in one process.

    python benchmarks/step.py --size full --batch 3 --data DATA --vocab VOCAB --variants coqui,bf16
    python benchmarks/step.py --size mini --batch 3 --data DATA --vocab VOCAB --variants fp32 --profile

Prints one JSON line: seconds and tokens per step of every variant (the median of its rounds, and their spread), the
ratio to the first, on a GPU the most memory that torch held, of all variants so far: name one alone to know its own.
Variants of ours: fp32, tf32, bf16, and with +8bit, +checkpointing or +attention_dropout. Of Coqui's: coqui as its
recipe ships (fp32; on a CPU one thread), coqui+threads, coqui+bf16 (TF32 and bf16 on). Weights are random: of XTTS v2's
true shapes with `--size full`, of `mini` otherwise. DATA is a folder of the shape of LJSpeech's.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from xtts_finetune.core.params import load_params
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.data.batches import Indices, collate, epoch_batches, voice_prompts
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureReader, FeatureWriter
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.device import make_deterministic, pick_device
from xtts_finetune.model.forward import set_dropout
from xtts_finetune.model.parts import PUBLISHED_CODEC
from xtts_finetune.training.feed import Feed
from xtts_finetune.training.meter import Meter, Taken
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.packing import MicroBatch, SpecialTokens, pack
from xtts_finetune.training.place import Place
from xtts_finetune.training.step import Step, is_padding_free
from xtts_finetune.training.team import Team

LOG_EVERY = 10  # steps
FRAMES = 388  # of a voice prompt, on the average: 4.5 s
Take = Callable[[int], int]  # takes a step, by its number, and gives its tokens


class Clips:
    """Recordings, their features on disk with the codes that Coqui's DVAE gives, and batches of them."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, dvae: Any, tokenizer: Any) -> None:
        lines = (arguments.data / "metadata.csv").read_text(encoding="utf-8").splitlines()
        self.rows = [line.split("|") for line in lines][: arguments.clips]
        self.files = [next((arguments.data / "wavs").glob(f"{row[0]}.*")) for row in self.rows]
        mel = xtts.build_codec_mel(torch.full((80,), 5.0))
        with FeatureWriter(folder, "train") as writer, torch.inference_mode():
            for number, (row, file) in enumerate(zip(self.rows, self.files, strict=True)):
                audio = soundfile.read(file, dtype="float32")[0]
                codes = dvae.get_codebook_indices(mel(torch.from_numpy(audio)[None]))[0].numpy()
                tokens = np.array(xtts.encode_text(tokenizer, row[2], "en"))
                writer.add(Clip(file.stem, file, row[2], "en", "a", number), audio, codes, tokens)
        self.reader = FeatureReader(folder, "train")
        self.batches: list[Indices] = []
        for epoch in range(1 + arguments.rounds * arguments.steps * arguments.batch // len(self.rows)):
            batches = epoch_batches(self.reader.samples, arguments.batch, 0, "phase1", epoch)
            self.batches += [batch for batch in batches if len(batch) == arguments.batch]


def ours(variant: str, arguments: argparse.Namespace, clips: Clips, weights: dict[str, Tensor]) -> tuple[Take, Any]:
    """A step as `Run.take_step` takes it, without the curve and MLflow."""
    make_deterministic()
    precision, *options = variant.split("+")
    phase: PhaseParams = load_params(Path(__file__).parent.parent / "params.yaml").train_phase1
    changes = {"precision": precision, "optim": "adamw8bit" if "8bit" in options else "adamw", "dropout": 0.1}
    changes |= {"gradient_checkpointing": "checkpointing" in options}
    changes |= {"attention_dropout": 0.1 if "attention_dropout" in options else 0.0}
    phase = phase.model_copy(update=changes)
    gpt = xtts.build_gpt(arguments.args, arguments.tokenizer).to(pick_device()).train()
    gpt.load_state_dict(weights)
    set_dropout(gpt, phase.dropout)
    device = gpt.mel_head.weight.device
    step = Step(
        gpt, xtts.build_conditioning_mel(torch.full((80,), 5.0)), build_optimizer(gpt, phase), phase, Team.alone()
    )
    meter, special = Meter(LOG_EVERY, device), SpecialTokens.of(gpt)

    def make(place: Place) -> MicroBatch:
        indices = clips.batches[place.step % len(clips.batches)]
        batch = collate(clips.reader, indices, voice_prompts(clips.reader.samples[indices], ("slice", place.step)))
        return pack(batch, special, mask_prompt=False, padding_free=is_padding_free(device, phase)).ready_for(device)

    feed = Feed(make, lambda place: Place(0, 0, place.step + 1))

    def take(number: int) -> int:
        meter.start_step()
        micro = feed.take(Place(0, 0, number))
        figures = step([micro], 1e-5, number, lambda: None)
        tokens = micro.targets.mel, micro.targets.text
        meter.add(Taken(number, 0, 1e-5, *tokens), figures)
        if meter.is_full:
            assert all(measured.is_finite for measured in meter.read())
        return sum(tokens)

    return take, gpt


def coqui(variant: str, arguments: argparse.Namespace, clips: Clips, folder: Path) -> tuple[Take, Any]:
    """GPTTrainer's step under Trainer, as its recipe sets them up; clips come decoded, as from a quick loader."""
    from trainer import Trainer, TrainerArgs
    from trainer.generic_utils import KeepAverage
    from TTS.tts.layers.xtts.trainer import dataset

    options = variant.split("+")[1:]
    trainer_model, config = coqui_model(arguments, folder)
    config.mixed_precision, config.precision = "bf16" in options, "bf16"
    sounds = {str(file): torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None] for file in clips.files}
    dataset.load_audio = lambda path, _: sounds[str(path)]
    samples = [
        {"text": row[2], "audio_file": str(file), "language": "en", "audio_unique_name": str(file)}
        for row, file in zip(clips.rows, clips.files, strict=True)
    ]
    with contextlib.redirect_stdout(sys.stderr):
        trainer = Trainer(
            TrainerArgs(), config, str(folder / "coqui"), model=trainer_model, train_samples=samples,
            eval_samples=samples[:1], parse_command_line_args=False,
        )  # fmt: skip
    data = dataset.XTTSDataset(config, samples, trainer_model.xtts.tokenizer, 22_050)
    trainer.keep_avg_train = KeepAverage()
    trainer_model.on_train_epoch_start(trainer)

    def load(index: int) -> Any:
        """Of a row; Coqui's dataset draws one at random."""
        choice, random.choice = random.choice, lambda options: options[0]  # type: ignore[assignment]
        try:
            data.samples = {"en": [samples[index]]}
            return data[0]
        finally:
            random.choice = choice

    def take(number: int) -> int:
        torch.set_num_threads(arguments.threads if options or pick_device().type == "cuda" else 1)
        torch.backends.cuda.matmul.allow_tf32 = "bf16" in options
        indices = clips.batches[number % len(clips.batches)]
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train_step(data.collate_fn([load(int(index)) for index in indices]), 1000, number, time.time())
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(arguments.threads)
        return int(clips.reader.n_codes[indices].sum() + clips.reader.n_tokens[indices].sum() + 5 * len(indices))

    return take, trainer_model


def coqui_model(arguments: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig
    from TTS.tts.models.xtts import XttsAudioConfig

    torch.save(torch.full((80,), 5.0), folder / "mel_stats.pth")
    torch.save(xtts.build_dvae(**PUBLISHED_CODEC).state_dict(), folder / "dvae.pth")
    shape = {} if arguments.size == "full" else {**mini.GPT_SHAPE, "decoder_input_dim": 256}
    args = GPTArgs(
        max_conditioning_length=132_300, min_conditioning_length=66_150, max_wav_length=255_995, max_text_length=200,
        mel_norm_file=str(folder / "mel_stats.pth"), dvae_checkpoint=str(folder / "dvae.pth"), xtts_checkpoint="",
        tokenizer_file=str(arguments.vocab), gpt_num_audio_tokens=1026, gpt_start_audio_token=1024,
        gpt_stop_audio_token=1025, gpt_use_masking_gt_prompt_approach=True, gpt_use_perceiver_resampler=True, **shape,
    )  # fmt: skip
    config = GPTTrainerConfig(
        output_path=str(folder), model_args=args, batch_size=arguments.batch, print_step=50, plot_step=100,
        log_model_step=100_000, save_step=100_000, save_checkpoints=False, dashboard_logger="tensorboard",
        audio=XttsAudioConfig(sample_rate=22_050, dvae_sample_rate=22_050, output_sample_rate=24_000),
        optimizer="AdamW", optimizer_wd_only_on_weights=True, run_eval=False,
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2}, lr=1e-5,
        lr_scheduler="MultiStepLR",
        lr_scheduler_params={"milestones": [900_000, 2_700_000, 5_400_000], "gamma": 0.5, "last_epoch": -1},
    )  # fmt: skip
    torch.manual_seed(0)
    return GPTTrainer(config), config


def model_flops(gpt: Any, lengths: Indices, conditioned: int) -> float:
    """Of forward and backward over sequences of `lengths` rows: 6 per weight of a product and row, and attention's."""
    width, layers = gpt.model_dim, len(gpt.gpt.h)
    rows = float(lengths.sum())
    blocks = 6.0 * 12 * width**2 * layers * rows + 6.0 * width * layers * float((lengths.astype(float) ** 2).sum())
    heads = 6.0 * width * (gpt.number_text_tokens * 0.3 + gpt.num_audio_tokens * 0.6) * rows  # by the rows of each kind
    encoder = 6.0 * 4 * width**2 * len(gpt.conditioning_encoder.attn) * FRAMES * conditioned
    return blocks + heads + encoder


def set_up(variant: str) -> None:
    """What is set for all of torch, as each trainer has it: Coqui leaves torch's defaults."""
    is_coqui = "coqui" in variant
    torch.use_deterministic_algorithms(not is_coqui)
    torch.backends.cudnn.allow_tf32 = is_coqui


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(take: Take, start: int, steps: int) -> tuple[float, float]:
    """Seconds and tokens per step."""
    wait()
    started = time.perf_counter()
    tokens = sum(take(start + number) for number in range(steps))
    wait()
    return (time.perf_counter() - started) / steps, tokens / steps


def figures(rounds: list[tuple[float, float]], first: list[float]) -> dict[str, Any]:
    seconds = [each for each, _ in rounds]
    ratios = [one / own for one, own in zip(first, seconds, strict=True)]
    return {
        "s_per_step": round(statistics.median(seconds), 5),
        "spread": [round(min(seconds), 5), round(max(seconds), 5)],
        "tokens_per_s": round(statistics.median(tokens / each for each, tokens in rounds)),
        "times_faster_than_first": round(statistics.median(ratios), 2),
        "ratio_spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def profiled(take: Take, steps: int, cuda: bool) -> None:
    """Where the time of a step goes, to standard error."""
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profile:
        timed(take, 0, steps)
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("mini", "full"), default="mini")
    parser.add_argument("--batch", type=int, default=3, help="clips")
    parser.add_argument("--variants", default="coqui,coqui+threads,fp32")
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--warm-up",
        type=int,
        default=3,
        help="steps of ours before the first round; on a GPU enough to record every shape",
    )
    parser.add_argument("--clips", type=int, default=48, help="the first of DATA")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="where the time of each variant's steps goes")
    parser.add_argument("--data", type=Path, required=True, help="a folder with wavs/ and metadata.csv, as LJSpeech's")
    parser.add_argument("--vocab", type=Path, required=True, help="a vocab.json: XTTS v2's own for its true shapes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.tokenizer = xtts.build_tokenizer(arguments.vocab)
    arguments.args = xtts.default_args(**({} if arguments.size == "full" else mini.GPT_SHAPE))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, _ = coqui_model(arguments, folder)
        clips = Clips(arguments, folder, model.dvae, arguments.tokenizer)
        weights = {key: value.clone() for key, value in model.xtts.gpt.state_dict().items()}
        del model
        takes: dict[str, tuple[Take, Any]] = {}
        for variant in arguments.variants.split(","):
            make = coqui(variant, arguments, clips, folder) if "coqui" in variant else None
            takes[variant] = make or ours(variant, arguments, clips, weights)
        rounds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in takes}
        for number in range(-1, arguments.rounds):
            for variant, (take, _) in takes.items():
                set_up(variant)
                if number < 0:
                    timed(take, 0, 3 if "coqui" in variant else arguments.warm_up)
                    continue
                torch.cuda.reset_peak_memory_stats() if torch.cuda.is_available() else None
                rounds[variant].append(timed(take, number * arguments.steps, arguments.steps))
                if torch.cuda.is_available():
                    results.setdefault(variant, {})["reserved_bytes"] = torch.cuda.max_memory_reserved()
        first = [seconds for seconds, _ in next(iter(rounds.values()))]
        for variant, (take, gpt) in takes.items():
            results[variant] = {**results.get(variant, {}), **figures(rounds[variant], first)}
            if "coqui" not in variant:
                used = clips.batches[: arguments.steps]
                lengths = clips.reader.n_tokens + clips.reader.n_codes + 5 + 32
                flops = sum(model_flops(gpt, lengths[batch], len(batch)) for batch in used) / len(used)
                results[variant]["model_flops_per_s"] = round(flops / results[variant]["s_per_step"])
            if arguments.profile:
                set_up(variant)
                profiled(take, 3, torch.cuda.is_available())
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(json.dumps({"size": arguments.size, "batch": arguments.batch, "device": where, "variants": results}))


if __name__ == "__main__":
    main()
