"""The files of a published base model: which there must be, and how to get them. Known without loading a network."""

from pathlib import Path

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace

REVISION = "6c2b0d75eae4b7047358e3b6bd9325f857d43f77"
# Hugging Face repository coqui/XTTS-v2 at REVISION: SHA-256 of the published files.
PUBLISHED = {
    "config.json": "ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8",
    "vocab.json": "928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a",
    "model.pth": "c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187",
    "dvae.pth": "b29bc227d410d4991e0a8c09b858f77415013eeb9fba9650258e96095557d97a",
    "mel_stats.pth": "1f69422a8a8f344c4fca2f0c6b8d41d2151d6615b7321e48e6bb15ae949b119c",
}
FETCH = (
    f".venv/bin/hf download coqui/XTTS-v2 {' '.join(PUBLISHED)} --revision {REVISION} --local-dir base/xtts_v2 "
    "(1.9 GB; the Coqui Public Model License 1.0.0 allows non-commercial use only), or copy the files there"
)
COPY = "put them there, or correct base in params.yaml: mini, xtts_v2, or a folder as seen from base/"


def is_pinned(base: str) -> bool:
    """Whether `base` of params.yaml names the published files, byte for byte, rather than some of that shape."""
    return base == "xtts_v2"


def base_folder(workspace: Workspace, base: str) -> Path:
    """Where the files of `base` lie: dvc.yaml reads it in the same way, so that DVC sees when they change."""
    folder = workspace.base / base
    return folder if is_pinned(base) else folder.resolve()


def check_published(source: Path, pinned: bool, memory: Path) -> None:
    """Check a folder of XTTS v2's files before anything is computed from it.

    Args:
        pinned: the files must be the published ones, byte for byte.
        memory: as of `sha256_once`.

    Raises:
        UserError: files are missing, or others than the published ones.
    """
    missing = [name for name in PUBLISHED if not (source / name).is_file()]
    problems = []
    if missing:
        problems.append(Problem(str(source), f"lacks {', '.join(missing)}", FETCH if pinned else COPY))
    for name, digest in PUBLISHED.items() if pinned else ():
        if name not in missing and sha256_once(source / name, memory) != digest:
            what = f"is not the published file (SHA-256 {digest[:12]}…)"
            remedy = "fetch it again; for weights of your own use base: <their folder>"
            problems.append(Problem(str(source / name), what, remedy))
    if problems:
        raise UserError("the base cannot be used", problems)
