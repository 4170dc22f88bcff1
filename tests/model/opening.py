"""A base folder of a test's own: changed, brought in, or refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import BASE_INFO
from xtts_finetune.model.base import Base
from xtts_finetune.model.importing import import_base


def replace(path: Path, content: Any) -> None:
    """A .pth file that holds `content`, in the place of one that has other names."""
    path.unlink(missing_ok=True)
    torch.save(content, path)


def write_text(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content, encoding="utf-8")


def refused(source: Path, tmp_path: Path) -> UserError:
    """What import_base says to it."""
    (tmp_path / "prepared").mkdir(exist_ok=True)
    with pytest.raises(UserError) as error:
        import_base(source, tmp_path / "prepared", tmp_path, pinned=False)
    return error.value


def open_base(source: Path, tmp_path: Path) -> Base:
    folder = tmp_path / "prepared"
    folder.mkdir()
    write_json(folder / BASE_INFO, import_base(source, folder, tmp_path, pinned=False))
    return Base(folder, tmp_path)


class Malicious:
    """Whose pickle makes a folder when it is loaded as pickles are."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)
