"""What `prepare` costs: its audio codec beside Coqui's own way to use it, the whole stage, and memory by clips.

    python benchmarks/prepare.py codec --data DATA              # XTTS v2's shapes, random weights
    python benchmarks/prepare.py codec --data DATA --size mini --profile
    python benchmarks/prepare.py stage --data DATA              # with mini, as `dvc repro` calls it
    python benchmarks/prepare.py memory --clips 311,50000       # short clips of noise, written to $TMPDIR

Prints one JSON line. DATA is a folder of the shape of LJSpeech's.

codec: seconds of audio per second ("times real time"), from decoded clips to codes, in turn: ours as `prepare` does it,
clips beside each other; Coqui's as GPTTrainer does, clip by clip with as many threads. Both must give the same codes.
Of the rounds come the median, least and most. `floor` is the rate if the codec's multiplications alone took time,
as fast as in a large product of matrices in the same round: what multiplies as often as the convolutions say is no
quicker.
stage: seconds of the process, its imports included, and its peak of memory.
memory: that peak for data sets of so many clips of 0.1 s, and what a clip adds from the smallest to the largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.data.ahead import work_ahead
from xtts_finetune.data.audio import load_audio
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.device import make_deterministic, pick_device
from xtts_finetune.model.parts import PUBLISHED_CODEC
from xtts_finetune.stages.prepare import Codec, single_threaded

PARAMS = Path(__file__).parent.parent / "params.yaml"
SQUARE = 2048  # rows of the matrices that the floor is measured with


def codec(arguments: argparse.Namespace) -> dict[str, Any]:
    make_deterministic()
    device = pick_device()
    torch.manual_seed(0)
    dvae = xtts.build_dvae(**(PUBLISHED_CODEC if arguments.size == "full" else mini.CODEC_SHAPE)).eval().to(device)
    stats = torch.full((xtts.MEL_CHANNELS,), 5.0)
    mel = xtts.build_codec_mel(stats.to(device)).to(device)
    encode = Codec(dvae, stats)
    files = sorted((arguments.data / "wavs").iterdir())[: arguments.clips or None]
    sounds = [load_audio(file).samples for file in files]
    seconds = sum(map(len, sounds)) / SAMPLE_RATE

    def ours() -> list[Any]:
        with single_threaded():
            return [future.result() for future in work_ahead(encode, sounds)]

    @torch.no_grad()
    def coquis() -> list[Any]:
        batches = (torch.from_numpy(sound)[None].to(device) for sound in sounds)
        return [dvae.get_codebook_indices(mel(batch))[0].cpu().numpy() for batch in batches]

    def rate(encode_all: Callable[[], list[Any]]) -> float:
        started = time.perf_counter()
        encode_all()
        return seconds / (time.perf_counter() - started)

    with FlopCounterMode(display=False) as counter:
        theirs = coquis()
    flops = counter.get_total_flops() / seconds
    assert all(map(np.array_equal, ours(), theirs)), "the codes are not Coqui's"
    rounds = [(rate(ours), rate(coquis), matmul_rate(device)) for _ in range(arguments.rounds)]
    if arguments.profile:
        with torch.profiler.profile() as profile:
            rate(ours)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15), file=sys.stderr)
    return {
        "ours": spread([own for own, _, _ in rounds]),
        "coqui": spread([theirs for _, theirs, _ in rounds]),
        "times_coqui": spread([own / theirs for own, theirs, _ in rounds]),
        "gflop_per_second_of_audio": round(flops / 1e9, 3),
        "matmul_gflop_per_s": spread([products / 1e9 for *_, products in rounds]),
        "floor": spread([products / flops for *_, products in rounds]),
        "share_of_floor": spread([own * flops / products for own, _, products in rounds]),
    }


def matmul_rate(device: torch.device) -> float:
    """Operations per second of a large product in fp32: the best of five."""
    a = torch.randn(SQUARE, SQUARE, device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return float(2 * SQUARE**3 / min(seconds))


def spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [round(value, 2) for value in (statistics.median(values), min(values), max(values))]


def stage(data: Path, folder: Path, params: str) -> dict[str, float]:
    """Run `prepare` as a process in a workspace of its own."""
    folder.mkdir()
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    (folder / "data").symlink_to(data.absolute(), target_is_directory=True)
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "xtts_finetune.stages", "prepare"], cwd=folder, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0, "prepare failed"
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        **peak(used.ru_maxrss),
    }


def peak(maxrss: int) -> dict[str, float]:
    return {"peak_mb": round(maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)}


def memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    counts = [int(count) for count in arguments.clips.split(",")]
    params = PARAMS.read_text(encoding="utf-8").replace("min_seconds: 0.5", "min_seconds: 0.05")
    figures = {}
    for count in counts:
        data = folder / f"data{count}"
        (data / "wavs").mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).normal(0, 0.1, SAMPLE_RATE // 10)
            soundfile.write(data / "wavs" / f"c{number}.wav", noise, SAMPLE_RATE, subtype="PCM_16")
        lines = [f"c{number}|And this is line number {number} of the clips.\n" for number in range(count)]
        (data / "metadata.csv").write_text("".join(lines), encoding="utf-8")
        figures[count] = stage(data, folder / f"run{count}", params)
    few, many = min(counts), max(counts)
    grown = (figures[many]["peak_mb"] - figures[few]["peak_mb"]) * 1e6
    return {"clips": figures, "bytes_per_further_clip": round(grown / max(1, many - few))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("codec", help="the codec beside Coqui's way to use it, and its floor")
    part.add_argument("--data", type=Path, required=True, help="a folder with wavs/, as LJSpeech's")
    part.add_argument("--size", choices=("mini", "full"), default="full", help="full: XTTS v2's shapes")
    part.add_argument("--clips", type=int, default=48, help="the first of DATA; 0: all")
    part.add_argument("--rounds", type=int, default=5)
    part.add_argument("--profile", action="store_true", help="where the time of ours goes, to standard error")
    part = parts.add_parser("stage", help="the whole stage with mini")
    part.add_argument("--data", type=Path, required=True, help="a folder with wavs/ and metadata.csv, as LJSpeech's")
    part = parts.add_parser("memory", help="peaks by the number of clips; 50,000 clips take some minutes")
    part.add_argument("--clips", default="311,50000", help="how many, for each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.part == "codec":
            figures = codec(arguments)
        elif arguments.part == "stage":
            figures = stage(arguments.data, Path(name) / "run", PARAMS.read_text(encoding="utf-8"))
        else:
            figures = memory(arguments, Path(name))
    print(json.dumps({arguments.part: figures, "device": str(pick_device()), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
