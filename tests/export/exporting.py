"""`xtts-finetune export`, in this process."""

from pathlib import Path
from typing import Any

import pytest

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.export.command import Request, export_lines

FILES = ["LICENSE.txt", "README.md", "config.json", "export.json", "lineage.json", "model.pth", "speakers_xtts.pth"]
FILES += ["vocab.json"]
# What `evaluate` found of the workspace's models.
EVALUATION: dict[str, Any] = {
    **{name: {"mel_ce": 4.25, "text_ce": 3.5} for name in ("base", "phase1", "phase2")},
    "intervals": {
        "base": {"clips": 1, "mel_ce": None, "text_ce": None},
        **{name: {"clips": 3, "mel_ce": (4.125, 4.375), "text_ce": (3.25, 3.75)} for name in ("phase1", "phase2")},
    },
}
KEY = "0123456789abcdef"  # of its run


def export(workspace: Workspace, folder: Path, what: str | None = "phase1", **others: Any) -> str:
    return "\n".join(export_lines(workspace, Request(what, folder, others.pop("speaker", None), **others)))


def refused(workspace: Workspace, folder: Path, what: str | None = "phase1", **others: Any) -> str:
    """Why; nothing was written."""
    before = sorted(workspace.root.rglob("*")), sorted(folder.parent.glob("*")) if folder.parent.is_dir() else []
    with pytest.raises(UserError) as error:
        export(workspace, folder, what, **others)
    after = sorted(workspace.root.rglob("*")), sorted(folder.parent.glob("*")) if folder.parent.is_dir() else []
    assert after == before
    return str(error.value)
