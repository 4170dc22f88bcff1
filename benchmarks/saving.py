"""What saving costs: bytes, their peak and the seconds that training stands still, beside Coqui's own trainer.

    python benchmarks/saving.py ours --size full --optim adamw --data DATA --vocab VOCAB --out FOLDER
    python benchmarks/saving.py peer --size full --peer PEER --data DATA --out FOLDER

Each prints one JSON line. `ours` trains a phase as `dvc repro` does, from random weights: of XTTS v2's true shapes with
`--size full`, of `mini` otherwise; with `--apart` a save begins when the one before is on the disk. In `still_s` of a
save training waits: as it begins, and before the update after it, which is part of `step_s`, the whole of that step.
`peer` runs Coqui's trainer on the same clips, batch and number of steps, by run_peer.py of the folder PEER. The peak is
polled every 20 ms: of the bytes that files hold, each inode once, and of what the file system has less; give FOLDER a
file system of its own for the second to mean something.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS, STEPS_PER_EPOCH = 6, 2  # of one clip each; a save every step, an evaluation every other


@dataclass
class Peaks:
    """The most bytes at any moment: held by files, and taken from the file system."""

    files: int = 0
    disk: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def polled(folder: Path) -> Iterator[Peaks]:
    from xtts_finetune.core.disk import files_below, free_bytes, held_bytes

    peaks, before = Peaks(), free_bytes(folder)

    def poll() -> None:
        while not peaks.stopped.wait(0.02):
            try:
                peaks.files = max(peaks.files, held_bytes(files_below(folder)))
            except FileNotFoundError:  # it went while we looked
                continue
            peaks.disk = max(peaks.disk, before - free_bytes(folder))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield peaks
    finally:
        peaks.stopped.set()
        thread.join()


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds.append(round(time.perf_counter() - started, 3))

    return call


def make_workspace(root: Path, arguments: argparse.Namespace) -> Any:
    """As `prepare` leaves it: a base of random weights, and the features of a few real clips with random codes."""
    import numpy as np
    import soundfile
    import torch
    from safetensors.torch import save_file

    from xtts_finetune.core.files import sha256_file, write_json
    from xtts_finetune.core.layout import FEATURES, Workspace
    from xtts_finetune.data.clips import Clip
    from xtts_finetune.data.features import FeatureWriter, code_count
    from xtts_finetune.model import mini, xtts

    workspace = Workspace(root)
    base = workspace.prepared / "base"
    base.mkdir(parents=True)
    shutil.copy(arguments.vocab, base / "vocab.json")
    tokenizer = xtts.build_tokenizer(base / "vocab.json")
    args = xtts.default_args(**({} if arguments.size == "full" else mini.GPT_SHAPE))
    write_json(base / "config.json", xtts.default_config(args))
    torch.manual_seed(0)
    gpt = xtts.build_gpt(args, tokenizer)
    parameters = sum(parameter.numel() for parameter in gpt.parameters())
    save_file(gpt.state_dict(), base / "gpt.safetensors")
    save_file({"mel_stats": torch.full((80,), 5.0)}, base / "mel_stats.safetensors")
    weights = {
        "path": "prepared/base/gpt.safetensors",
        "sha256": sha256_file(base / "gpt.safetensors"),
        "parameters": parameters,
    }
    write_json(base / "base.json", {"vocoder": "griffin_lim", "codec": mini.CODEC_SHAPE, "gpt": weights})
    files = sorted((arguments.data / "wavs").iterdir(), key=lambda file: soundfile.info(file).duration)
    digests: dict[str, str] = {}
    for split, chosen in ("train", files[:STEPS_PER_EPOCH]), ("eval", files[STEPS_PER_EPOCH : STEPS_PER_EPOCH + 1]):
        with FeatureWriter(workspace.prepared, split) as writer:
            for number, file in enumerate(chosen):
                audio = soundfile.read(file, dtype="float32")[0]
                codes = np.random.default_rng(number).integers(0, 1024, code_count(len(audio)))
                tokens = xtts.encode_text(tokenizer, "The quick brown fox.", "en")
                writer.add(Clip(file.stem, file, "", "en", "a", number), audio, codes, np.array(tokens))
        digests |= writer.digests
    write_json(workspace.prepared / FEATURES, digests)
    return workspace


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """A phase of STEPS steps through `fit` and `publish`, as stages/train.py has it, without MLflow."""
    from xtts_finetune.checkpoints.store import CheckpointStore
    from xtts_finetune.core.disk import files_below, held_bytes
    from xtts_finetune.core.params import load_params
    from xtts_finetune.model.device import make_deterministic
    from xtts_finetune.tracking.curve import Curve
    from xtts_finetune.training.claim import claim
    from xtts_finetune.training.interrupts import StopRequest
    from xtts_finetune.training.loop import fit
    from xtts_finetune.training.phases import Job, publish_outs, summary
    from xtts_finetune.training.run import Run
    from xtts_finetune.training.share import Share
    from xtts_finetune.training.team import Team

    class Silent:
        def log(self, step: int, metrics: dict[str, float]) -> None:
            pass

    make_deterministic()
    workspace = make_workspace(arguments.out, arguments)
    params = load_params(Path(__file__).parent.parent / "params.yaml")
    changes = {"batch_size": 1, "epochs": STEPS // STEPS_PER_EPOCH, "lr": 1e-4, "optim": arguments.optim}
    phase = params.train_phase1.model_copy(update={**changes, "warmup_steps": 0, "target_mel_ce": None})
    params = params.model_copy(update={"train_phase1": phase})
    job = Job(workspace, params, "phase1")
    store = CheckpointStore(workspace.work("phase1"), keep_last=arguments.keep_last)
    before = held_bytes(files_below(arguments.out))
    begun: list[float] = []
    waited: list[float] = []
    stepped: list[float] = []
    written: list[float] = []
    store.save = timed(store.save, written)  # type: ignore[method-assign]
    with polled(arguments.out) as peaks, store.locked():
        claimed = claim(job, store, lambda: False)
        share, curve = Share(job.inputs(), Team.alone()), Curve(workspace.running_curve("phase1"))
        run = Run(share, claimed.record, store, curve, Silent(), 1, 1)
        begin_saving = timed(run.save, begun)

        def save() -> None:
            if arguments.apart:
                run.finish_saving()
            begin_saving()

        run.save = save  # type: ignore[method-assign]
        run.take_step = timed(run.take_step, stepped)  # type: ignore[method-assign]
        snapshot = run._snapshot
        snapshot.before_update = timed(snapshot.before_update, waited)  # type: ignore[method-assign]
        end = fit(run, claimed.state, StopRequest())
        state_bytes = {file.name: file.stat().st_size for file in store.states()[-1].folder.iterdir()}
        store.mark_done(summary(run, claimed.record, end))
        publish_outs(job, store)
    evaluated = [row["eval/mel_ce"] for row in run.curve.rows if "eval/mel_ce" in row]
    return {
        "parameters": sum(parameter.numel() for parameter in run.gpt.parameters()),
        "state_bytes": state_bytes,
        "state_bytes_sum": sum(state_bytes.values()),
        "peak_bytes": peaks.files - before,
        "peak_disk_bytes": peaks.disk,
        "left_bytes": held_bytes(files_below(arguments.out)) - before,
        "left_files": sum(1 for _ in files_below(workspace.work("phase1"))),
        "still_s": [round(save + wait, 3) for save, wait in zip(begun, [*waited, 0.0], strict=True)],
        "step_s": stepped,
        "written_s": written,
        "eval_mel_ce": evaluated,
        "bests": 1 + sum(now < min(evaluated[:at]) for at, now in enumerate(evaluated) if at),
    }


def peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Coqui's trainer: the same batch and number of steps, a save every step."""
    base, out = arguments.out / "base", arguments.out / "run"
    call = [sys.executable, str(arguments.peer / "make_base.py"), "--size", arguments.size, "--out", str(base)]
    subprocess.run([*call, "--data", str(arguments.data)], check=True, stdout=subprocess.DEVNULL)
    call = [sys.executable, str(arguments.peer / "run_peer.py"), "--base", str(base), "--data", str(arguments.data)]
    call += ["--out", str(out), "--steps", str(STEPS_PER_EPOCH), "--epochs", str(STEPS // STEPS_PER_EPOCH)]
    call += ["--batch", "1", "--eval-n", "1", "--save-step", "1", "--threads", "2", "--lr", "1e-4"]
    call += ["--save-n-checkpoints", str(arguments.keep_last)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "parameters": figures["gpt_params"],
        "state_bytes": {name: size for name, size in figures["files_left"].items() if name.endswith(".pth")},
        "peak_bytes": figures["peak_files_bytes"][1],
        "left_bytes": figures["left_files_bytes"][1],
        "left_files": figures["left_files_bytes"][0],
        "still_s": [wall for wall, _ in figures["saves_s"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", choices=("ours", "peer"))
    parser.add_argument("--size", choices=("mini", "full"), default="mini")
    parser.add_argument("--optim", choices=("adamw", "adamw8bit"), default="adamw")
    parser.add_argument("--keep-last", type=int, default=1)
    parser.add_argument("--apart", action="store_true", help="no save waits for another; of ours")
    parser.add_argument("--data", type=Path, required=True, help="a folder with wavs/ and metadata.csv, as LJSpeech's")
    parser.add_argument("--vocab", type=Path, help="a vocab.json; XTTS v2's own for its true number of parameters")
    parser.add_argument("--peer", type=Path, help="the folder of make_base.py and run_peer.py")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, best on a file system of its own")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    figures = ours(arguments) if arguments.trainer == "ours" else peer(arguments)
    whole = {"trainer": arguments.trainer, "size": arguments.size, "optim": arguments.optim, **figures}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**whole, "wall_s": round(time.perf_counter() - started, 1), "peak_rss_bytes": rss}))


if __name__ == "__main__":
    main()
