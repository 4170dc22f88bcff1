from pathlib import Path

import pytest
from making import workspaces
from mlflow_server import MlflowServer, free_port

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TrackingStore, open_store


@pytest.fixture(scope="session")
def tracking() -> TrackingParams:
    return TrackingParams(experiment="xtts-finetune", uri=None, log_every_steps=1, flush_every_steps=5)


@pytest.fixture
def workspace(tmp_path: Path, empty_database: Path) -> Workspace:
    """With an MLflow store that is empty."""
    return workspaces.tracked(tmp_path / "my vöice", empty_database)


@pytest.fixture
def store(workspace: Workspace, tracking: TrackingParams) -> TrackingStore:
    return open_store(workspace, tracking)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A self-contained exported model, as far as the registry can tell."""
    folder = tmp_path / "my vöice" / "models" / "phase1"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "model.json").write_text("{}")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    return folder


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


@pytest.fixture
def empty_server(tmp_path: Path, empty_database: Path, free_port: int) -> MlflowServer:
    """A server that is yet to be started, with nothing in its store."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    return MlflowServer(folder, free_port)
