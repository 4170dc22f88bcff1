from pathlib import Path

import pytest
from network_room import _deterministic, workspace  # noqa: F401

from xtts_finetune.core.files import link_or_copy
from xtts_finetune.model.published import PUBLISHED


@pytest.fixture
def source(published: Path, tmp_path: Path) -> Path:
    """`published` under names of the test's own: replace its files, don't write into them."""
    (tmp_path / "source").mkdir()
    for name in PUBLISHED:
        link_or_copy(published / name, tmp_path / "source" / name)
    return tmp_path / "source"
