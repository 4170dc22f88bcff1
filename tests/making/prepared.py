"""What `prepare` leaves: as far as digests and sizes tell, or real features of noise."""

from pathlib import Path

import numpy as np

from making.recordings import noise
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import BASE_INFO, FEATURES, SplitName, Workspace
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureWriter, code_count

TEXT = "The quick brown fox, and the lazy dog!"
SECONDS: dict[SplitName, tuple[float, ...]] = {
    "train": (0.6, 1.0, 0.9, 1.4, 0.7, 1.2, 0.8, 1.1, 1.3),
    "eval": (0.7, 1.5, 1.0),
}
# As features.json lists them, where nothing is hashed.
DIGESTS = {f"{split}.{kind}": f"{split} {kind}" for split in ("train", "eval") for kind in ("jsonl", "codes.i16")}


def describe_base(
    workspace: Workspace, parameters: int = 1_000_000, sha256: str = "of the base", base: str = "xtts_v2"
) -> None:
    """A base.json without its base."""
    path = "prepared/base/gpt.safetensors" if base == "mini" else f"base/{base}/model.pth"
    gpt = {"parameters": parameters, "sha256": sha256, "path": path}
    write_json(workspace.prepared / "base" / BASE_INFO, {"gpt": gpt})


def list_features(workspace: Workspace, **changes: str) -> None:
    """A features.json without its features."""
    write_json(workspace.prepared / FEATURES, {**DIGESTS, **changes})


def write_features(workspace: Workspace, tokens: int) -> None:
    """Of clips of noise, with texts of random tokens below `tokens`."""
    digests: dict[str, str] = {}
    for split, lengths in SECONDS.items():
        with FeatureWriter(workspace.prepared, split) as writer:
            for i, seconds in enumerate(lengths):
                audio = noise(i, seconds)
                random = np.random.default_rng(100 + i)
                codes = random.integers(0, 8, code_count(len(audio)))  # few, so that there is something to learn
                text = random.integers(5, tokens, 4 + 3 * i)
                writer.add(Clip(f"{split}{i}", Path("none.wav"), TEXT, "en", "a", i), audio, codes, text)
        digests |= writer.digests
    write_json(workspace.prepared / FEATURES, digests)
