"""What it takes to hear a phase while it trains: memory and time of the process that speaks, with XTTS v2's shapes.

    python benchmarks/heard.py          (12 GB of memory for a moment, 10 GB below /tmp, some minutes)

The weights are random: they speak until `evaluate.max_seconds` is over, so that the time is told by second of speech.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import soundfile
import yaml
from safetensors.torch import save_file

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT / "tests")]

from making import workspaces  # noqa: E402
from making.bases import write_published  # noqa: E402

from xtts_finetune.core.layout import REFERENCE, WEIGHTS, Workspace  # noqa: E402
from xtts_finetune.core.params import load_params  # noqa: E402
from xtts_finetune.model.base import Base  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = _workspace(Path(folder))
        began = time.monotonic()
        process = _speaker(workspace)
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.2)
        took = time.monotonic() - began
        assert process.wait() == 0
        said = sum(soundfile.info(file).duration for file in workspace.spoken("phase1", 0).glob("*.wav"))
        print(f"{took:.0f} s for {said:.0f} s of speech, {peak / 1e9:.1f} GB of memory at the most")


def _workspace(root: Path) -> Workspace:
    recordings = sorted((PROJECT / "samples" / "wavs").iterdir())[:10]
    workspace = workspaces.imported(write_published(root / "base" / "full", recordings, true_size=True))
    params = yaml.safe_load((PROJECT / "presets" / "xtts_v2.yaml").read_text(encoding="utf-8"))
    workspace.params.write_text(yaml.safe_dump(params | {"base": "full"}), encoding="utf-8")
    shutil.copy(recordings[0], workspace.prepared / REFERENCE)
    save_file(Base.prepared(workspace).gpt().state_dict(), root / WEIGHTS)
    return workspace


def _speaker(workspace: Workspace) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "xtts_finetune.stages.speaking", "phase1", "0", WEIGHTS]
    process = subprocess.Popen(command, cwd=workspace.root, stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(f"{load_params(workspace.params).model_dump_json()}\n".encode())
    process.stdin.flush()
    return process


if __name__ == "__main__":
    main()
