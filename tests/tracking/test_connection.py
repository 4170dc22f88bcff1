import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from runs import artifact_folder

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.registry import find_champion, register_best


def start(store: TrackingStore) -> str:
    """A run that has files."""
    run_id: str = store.client.create_run(store.experiment_id).info.run_id
    return run_id


def test_a_moved_workspace_finds_its_artifacts(
    store: TrackingStore,
    workspace: Workspace,
    tracking: TrackingParams,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = store.client.create_experiment("by MLflow's UI", str(workspace.root / "mlruns" / "7"))
    elsewhere = store.client.create_experiment("elsewhere", str(tmp_path / "my vöice too"))
    old = start(store)
    store.client.log_artifacts(old, str(model), "files")
    registered = register_best(store, old, "voice", model, SERVING_CODE, "f00d", {"phase": "phase1", "step": "7"}, {})

    moved = Workspace(tmp_path / "attic" / "new place")
    moved.root.parent.mkdir()
    workspace.root.rename(moved.root)
    capsys.readouterr()
    there = open_store(moved, tracking)
    assert capsys.readouterr().err.count("\n") == 1
    open_store(moved, tracking)
    assert capsys.readouterr().err == ""

    assert [file.path for file in there.client.list_artifacts(old)] == ["files"]
    champion = find_champion(there, "voice")
    assert champion is not None and champion.version == registered.version
    assert artifact_folder(there, champion).is_relative_to(moved.root)
    assert there.client.get_experiment(plain).artifact_location == str(moved.root / "mlruns" / "7")
    assert there.client.get_experiment(elsewhere).artifact_location == str(tmp_path / "my vöice too")
    later = start(there)
    there.client.log_artifacts(later, str(moved.root / "models" / "phase1"), "files")
    assert [file.path for file in there.client.list_artifacts(later)] == ["files"]
    with closing(sqlite3.connect(moved.tracking_db)) as connection:
        dump = "\n".join(connection.iterdump())
    assert workspace.root.as_uri() + "/" not in dump
    assert str(workspace.root) + os.sep not in dump


def test_a_deleted_experiment_is_the_users_to_restore(
    store: TrackingStore, workspace: Workspace, tracking: TrackingParams
) -> None:
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        open_store(workspace, tracking)


def damaged_page(database: Path, table: str) -> bytes:
    """The content of a database, the first page of a table overwritten."""
    content = bytearray(database.read_bytes())
    with closing(sqlite3.connect(database)) as connection:
        [size] = connection.execute("PRAGMA page_size").fetchone()
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    content[(page - 1) * size : page * size] = b"\xff" * size
    return bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda database: b"all my voices\n" * 1000, "file is not a database"),
        (lambda database: database.read_bytes()[:8192], "database disk image is malformed"),
        (lambda database: damaged_page(database, "alembic_version"), "database disk image is malformed"),
        (lambda database: damaged_page(database, "experiments"), "database disk image is malformed"),  # MLflow wraps it
        (lambda database: damaged_page(database, "runs"), "database disk image is malformed"),  # met as it has moved
    ],
)
def test_a_damaged_database_is_named_and_left_alone(
    store: TrackingStore,
    workspace: Workspace,
    tracking: TrackingParams,
    tmp_path: Path,
    damage: Callable[[Path], bytes],
    what: str,
) -> None:
    moved = Workspace(workspace.root.with_name("moved"))
    workspace.root.rename(moved.root)
    content = damage(moved.tracking_db)
    moved.tracking_db.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        open_store(moved, tracking)
    [problem] = refusal.value.problems
    assert (problem.where, problem.what) == (str(moved.tracking_db), f"the database is damaged: {what}")
    assert "move it away, and the next run makes a new one. Lost is" in problem.remedy
    assert moved.tracking_db.read_bytes() == content

    moved.tracking_db.rename(moved.tracking_db.with_suffix(".damaged"))  # the remedy
    later = Workspace(moved.root.rename(tmp_path / "later"))  # this process has the damaged file open by its address
    assert start(open_store(later, tracking))


def test_another_schema_is_no_damage(workspace: Workspace, tracking: TrackingParams) -> None:
    with closing(sqlite3.connect(workspace.tracking_db)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of another MLflow'")
    with pytest.raises(UserError, match="mlflow db upgrade sqlite:///"):
        open_store(workspace, tracking)


def test_a_server_that_is_down_is_told_in_seconds(
    tmp_path: Path, tracking: TrackingParams, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"tracking\.uri: http://127\.0\.0\.1"):
        open_store(Workspace(tmp_path), tracking.model_copy(update={"uri": f"http://127.0.0.1:{free_port}"}))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"
    assert list(tmp_path.iterdir()) == []


def test_importing_the_store_does_not_load_mlflow() -> None:
    modules = "xtts_finetune.tracking.delivery, xtts_finetune.tracking.registry, sys"
    code = f"import {modules}; sys.exit(bool({{'mlflow', 'torch'}} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
