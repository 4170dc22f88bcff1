"""A team's server: MLflow on PostgreSQL, which keeps the artifacts, too; the whole pipeline, and who is champion."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkouts import Checkout
from mlflow_server import MlflowServer, free_port, running
from postgres import running_postgres

from xtts_finetune.core.files import sha256_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "xtts-finetune"


@pytest.fixture(scope="module")
def server() -> Iterator[MlflowServer]:
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)  # PostgreSQL's user looks into it
        (folder / "mlflow").mkdir()
        with running_postgres(folder / "db") as database:
            server = MlflowServer(folder / "mlflow", free_port(), database)
            with running(server):
                yield server


@pytest.fixture
def client(server: MlflowServer) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(server.uri)


def kept(server: MlflowServer) -> list[Path]:
    """The weights of versions in the server's own store."""
    return sorted((server.folder / "files").rglob("models/*/artifacts/artifacts/model/model.safetensors"))


def test_the_whole_pipeline_and_who_is_champion(
    untrained: Checkout, server: MlflowServer, client: "MlflowClient"
) -> None:
    here = untrained
    here.change_params(lambda params: params["tracking"].update(uri=server.uri))
    said = here.repro()
    assert f"registered: {MODEL} version 1 (candidate, champion)" in said
    assert not (here.root / "mlruns" / "mlflow.db").exists()
    assert [sha256_file(file) for file in kept(server)] == [sha256_file(here.root / "models/phase2/model.safetensors")]

    for lr in (1e-5, 6e-4):  # a worse one and a better one
        here.change_params(lambda params, lr=lr: params["train_phase2"].update(lr=lr))
        here.repro()
    assert "does not pass: eval Mel CE" in here.run("xtts-finetune", "promote", "2", code=2).stderr
    here.run("xtts-finetune", "promote", "3")
    assert client.get_model_version_by_alias(MODEL, "champion").version == "3"
    here.run("xtts-finetune", "rollback")
    assert client.get_model_version_by_alias(MODEL, "champion").version == "1"
    assert "2 entries: each is as it was written" in here.run("xtts-finetune", "history", "--verify").stdout

    here.change_params(lambda params: params["train_phase2"].update(lr=2e-4))
    here.repro()
    assert len(kept(server)) == 4
    said = here.run("xtts-finetune", "clean", "--versions", "keep=1", "--yes").stdout
    assert "version 2: gone" in said
    assert "stays  version 3" in said  # was champion
    assert len(kept(server)) == 3
    assert sorted(version.version for version in client.search_model_versions()) == ["1", "3", "4"]
    assert "every byte as it was registered" in here.run("xtts-finetune", "restore", "4").stdout
