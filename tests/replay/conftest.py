"""A trained workspace that kept all its states, and copies of it from which they are let go."""

import shutil
from pathlib import Path

import pytest
from keeping import kept_all
from network_room import _deterministic  # noqa: F401
from once import made_once

from xtts_finetune.core.layout import Workspace


@pytest.fixture(scope="module")
def trained(short_prompts: None, template: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both phases, of 15 steps each, every one of which was saved. Change a copy."""
    root = made_once(tmp_path_factory, "kept all", lambda root: kept_all(template, root / "voice"))
    return Workspace(root / "voice")


@pytest.fixture
def here(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy, to be changed."""
    shutil.copytree(trained.root, tmp_path / "my vöice")
    return Workspace(tmp_path / "my vöice")
