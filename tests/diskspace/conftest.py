"""Workspaces whose bytes are counted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from making import workspaces
from small_disks import SmallDisk, small_disk

from xtts_finetune.core.layout import Workspace


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The project's DVC configuration and no other; nothing has been run."""
    for level in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"DVC_{level}_CONFIG_DIR", str(tmp_path / "nowhere"))
    return workspaces.configured(tmp_path / "checkout")


@pytest.fixture
def workspace(configured: Workspace) -> Workspace:
    """As after `prepare`, with a base of a million parameters."""
    return workspaces.described(configured.root)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 2_000_000) as disk:
        yield disk
