"""A registry with versions that differ in their figures alone: their files are never opened."""

import shutil
from pathlib import Path

import pytest
from making import workspaces
from making.project import PROJECT
from promoting import Team


@pytest.fixture
def team(tmp_path: Path, empty_database: Path) -> Team:
    workspace = workspaces.tracked(tmp_path / "my vöice", empty_database)
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    return Team(workspace)
