"""Whether what is deletable is never lost: states made again, beside those that the training saved.

    python benchmarks/rebuild.py --workspace WORKSPACE [--steps 20] [--seed 1]

WORKSPACE: where `dvc repro` ran through with `checkpoints: {save_every_steps: 10, keep_last: 50}`, so that it has
every state that was saved (4 GB of the starter run). Of a copy four in five are deleted; then --steps of those, drawn
by chance, are made again by `xtts-finetune rebuild`, each from nothing but what is left in the copy. Prints a table:
the SHA-256 of weights and optimiser, begun with, of then and of now; and whether every file of the state is the same.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.layout import OPTIMIZER, PHASES, WEIGHTS, Workspace, checkpoint_step

SHOWN = 12  # digits of a digest
EVERY = 5


def states(workspace: Workspace) -> dict[int, Path]:
    """What the training saved, by step; of the step that both phases have, phase 1's."""
    folders = [folder for phase in reversed(PHASES) for folder in workspace.checkpoints(phase).glob("step-*")]
    return {step: folder for folder in folders if (step := checkpoint_step(folder.name, "step")) is not None}


def thinned(workspace: Workspace, root: Path) -> Workspace:
    """A copy, as links, of which every EVERY-th state of each phase is left, and the newest."""
    unneeded = shutil.ignore_patterns(".venv", ".git", "mlruns")
    shutil.copytree(workspace.root, root, symlinks=True, ignore=unneeded, copy_function=os.link)
    copy = Workspace(root)
    for phase in PHASES:
        for number, folder in enumerate(sorted(copy.checkpoints(phase).glob("step-*"))[:-1]):
            if number % EVERY:
                shutil.rmtree(folder)
        shutil.rmtree(copy.work(phase), ignore_errors=True)
    shutil.rmtree(copy.rebuilding, ignore_errors=True)
    return copy


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace.resolve())
    there = states(workspace)
    rows = ["| step | weights, then | now | optimiser, then | now | all files | seconds |", "|" + " --- |" * 7]
    with tempfile.TemporaryDirectory(dir=workspace.root.parent) as place:
        copy = thinned(workspace, Path(place) / "copy")
        drawn = random.Random(arguments.seed).sample(sorted(there.keys() - states(copy).keys()), arguments.steps)
        for step in tqdm(sorted(drawn), desc="making again", unit="state"):
            before, phase = digests(there[step]), there[step].parent.name
            begun = time.perf_counter()
            command = ["-m", "xtts_finetune.cli", "rebuild", "--step", str(step)]
            subprocess.run([sys.executable, *command], cwd=copy.root, check=True, capture_output=True)
            seconds = time.perf_counter() - begun
            [made] = copy.rebuilding.glob(f"{phase}.*/{there[step].name}")
            now = digests(made)
            shutil.rmtree(made)  # the next must not start from it
            pairs = [each.get(name, "")[:SHOWN] for name in (WEIGHTS, OPTIMIZER) for each in (before, now)]
            rows.append(
                f"| {' | '.join([str(step), *pairs])} | {'same' if now == before else 'DIFFERENT'} | {seconds:.0f} |"
            )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
