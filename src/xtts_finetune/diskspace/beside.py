"""What lies beside the weights of a registered model: its vocoder, above all."""

from pathlib import Path

from xtts_finetune.core.layout import CODEC, NEW_ROWS, VOCABULARY, VOCODER, Workspace
from xtts_finetune.core.prepared_base import prepared_base

VOCODER_BYTES = 105_000_000  # of XTTS v2's HiFi-GAN and its speaker encoder, as `prepare` writes them


def beside_weights(workspace: Workspace, base: str) -> int:
    """Bytes; before `prepare` has opened this base those of XTTS v2, of mini none that count."""
    if prepared_base(workspace, base) is None:
        return 0 if base == "mini" else VOCODER_BYTES
    folder = workspace.prepared / "base"
    sound = size_of(folder / VOCODER) or size_of(folder / CODEC)  # the one that it speaks with
    return sound + size_of(folder / VOCABULARY) + size_of(folder / NEW_ROWS)


def size_of(file: Path) -> int:
    """0 where it is not there."""
    return file.stat().st_size if file.exists() else 0
