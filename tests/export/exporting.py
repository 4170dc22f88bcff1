"""`xtts-finetune export`, in this process."""

from pathlib import Path
from typing import Any

import pytest

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.export.command import Request, export_lines

FILES = ["LICENSE.txt", "README.md", "config.json", "export.json", "lineage.json", "model.pth", "speakers_xtts.pth"]
FILES += ["vocab.json"]


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
