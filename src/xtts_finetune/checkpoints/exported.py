"""An exported best: weights, and the card that vouches for them."""

from pathlib import Path

from xtts_finetune.core.files import read_json, sha256_file
from xtts_finetune.core.layout import MODEL_CARD, WEIGHTS


def is_whole_model(model: Path, verify: bool) -> bool:
    """Whether an exported model's weights are there; where `verify`, whether they are what its card says."""
    try:
        digest = read_json(model / MODEL_CARD)["sha256"]
        return (model / WEIGHTS).is_file() and (not verify or sha256_file(model / WEIGHTS) == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False
