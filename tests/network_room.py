"""What model/, speech/ and training/ have in common; their conftest.py takes it from here."""

import shutil
from pathlib import Path

import pytest

from xtts_finetune.core.layout import Workspace


@pytest.fixture(scope="session", autouse=True)
def _deterministic(deterministic: None) -> None:
    """Every test here runs as the stages do."""


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    """A tiny workspace of the test's own, ready to be trained in."""
    shutil.copytree(template.root, tmp_path / "my vöice")
    return Workspace(tmp_path / "my vöice")
