"""A registry with versions that differ in their figures alone: their files are never opened."""

import shutil
from pathlib import Path

import pytest
from making import workspaces
from making.project import PROJECT
from promoting import Team

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import open_store


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making one takes seconds, copying it none."""
    workspace = Workspace(tmp_path_factory.mktemp("template"))
    open_store(workspace, TrackingParams(experiment="template", uri=None, log_every_steps=1, flush_every_steps=5))
    return workspace.tracking_db


@pytest.fixture
def team(tmp_path: Path, template: Path) -> Team:
    workspace = workspaces.tracked(tmp_path / "my vöice", template)
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    return Team(workspace)
