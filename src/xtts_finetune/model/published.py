"""XTTS v2 as it was published: which files, of how many bytes and which SHA-256. Known without loading a network."""

from pathlib import Path

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace

REPOSITORY = "coqui/XTTS-v2"  # on Hugging Face's hub
REVISION = "6c2b0d75eae4b7047358e3b6bd9325f857d43f77"
# SHA-256 of what a fine-tune needs, at REVISION.
PUBLISHED = {
    "config.json": "ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8",
    "vocab.json": "928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a",
    "model.pth": "c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187",
    "dvae.pth": "b29bc227d410d4991e0a8c09b858f77415013eeb9fba9650258e96095557d97a",
    "mel_stats.pth": "1f69422a8a8f344c4fca2f0c6b8d41d2151d6615b7321e48e6bb15ae949b119c",
}
# Coqui's own voices, for other programs: nothing here needs them.
OPTIONAL = {"speakers_xtts.pth": "f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b"}
SIZES = {  # bytes
    "config.json": 4_368,
    "vocab.json": 361_219,
    "model.pth": 1_867_929_118,
    "dvae.pth": 210_514_388,
    "mel_stats.pth": 1_067,
    "speakers_xtts.pth": 7_754_818,
}
LICENCE = "Coqui Public Model License 1.0.0"
LICENCE_TEXT = f"https://huggingface.co/{REPOSITORY}/blob/{REVISION}/LICENSE.txt (and https://coqui.ai/cpml)"
FETCH = (
    f"xtts-finetune base fetch --accept-licence (2.1 GB; the {LICENCE} allows non-commercial use only), "
    "or copy the files there"
)


def is_pinned(base: str) -> bool:
    """Whether `base` of params.yaml names the published files, byte for byte, rather than some of that shape."""
    return base == "xtts_v2"


def xtts_v2_folder(workspace: Workspace) -> Path:
    """Where the published files belong."""
    return workspace.base / "xtts_v2"


def base_folder(workspace: Workspace, base: str) -> Path:
    """Where the files of `base` lie: dvc.yaml reads it in the same way, so that DVC sees when they change."""
    folder = workspace.base / base
    return folder if is_pinned(base) else folder.resolve()


def check_published(source: Path, memory: Path) -> None:
    """Check that a folder has the published files, byte for byte.

    Args:
        memory: as of `sha256_once`.

    Raises:
        UserError: files are missing, or others than the published ones.
    """
    missing = [name for name in PUBLISHED if not (source / name).is_file()]
    problems = [Problem(str(source), f"lacks {', '.join(missing)}", FETCH)] if missing else []
    for name in PUBLISHED:
        if name not in missing:
            problems += not_published(source / name, memory)
    if problems:
        raise UserError("the base cannot be used", problems)


def not_published(file: Path, memory: Path) -> list[Problem]:
    """What is wrong with a file that is there: nothing, or that it is another than the published one of its name."""
    digest = sha256_once(file, memory)
    if digest == PUBLISHED[file.name]:
        return []
    what = f"is not the published file (SHA-256 {digest[:12]}…)"
    return [Problem(str(file), what, "fetch it again; for weights of your own use base: <their folder>")]
