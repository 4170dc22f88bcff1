"""Paths that a server or a database names: only this workspace's own store is written to or deleted from."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import evaluate
from making.project import PROJECT
from runs import Client

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.layout import MODEL_CARD, WEIGHTS, Workspace
from xtts_finetune.core.params import TrackingParams, load_params
from xtts_finetune.ops.restore import restore_text
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.backlog import deliver_backlog
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.logged_model import MODEL_FOLDER
from xtts_finetune.tracking.registered import registered
from xtts_finetune.tracking.registry import register_best

SHA = "f00d"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's folder."""
    folder = tmp_path / "home" / "models"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "thesis.tex").write_text("all my work")
    (folder / "letters").write_text("to you")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def pending_model_at(store: TrackingStore, run_id: str, workspace: Workspace, address: str) -> None:
    """A model that a crash left unfinished, whose files are said to lie at `address`."""
    model = store.client.create_logged_model(
        store.experiment_id, name="voice", source_run_id=run_id, tags={"model_sha256": SHA}
    )
    with closing(sqlite3.connect(workspace.tracking_db)) as database, database:
        change = "UPDATE logged_models SET artifact_location = ? WHERE model_id = ?"
        database.execute(change, (address, model.model_id))


def register(store: TrackingStore, run_id: str, model: Path) -> Any:
    return register_best(store, run_id, "voice", model, SERVING_CODE, SHA, {"phase": "phase2", "step": "7"}, {})


@pytest.mark.parametrize("form", ["file", "plain", "dots", "link", "other model"])
def test_no_folder_is_deleted_that_the_database_names(
    store: TrackingStore, workspace: Workspace, model: Path, home: Path, form: str
) -> None:
    own = workspace.root / "mlruns" / "artifacts"
    own.mkdir(parents=True, exist_ok=True)
    (own / "models" / "m-of-another" / "artifacts").mkdir(parents=True)
    (own / "models" / "m-of-another" / "artifacts" / "weights").write_text("registered")
    (own / "link").symlink_to(home)
    address = {
        "file": (home / "artifacts").as_uri(),
        "plain": str(home / "artifacts"),
        "dots": f"{own.as_uri()}/../../../home/models/artifacts",
        "link": f"{own.as_uri()}/link/artifacts",
        "other model": f"{own.as_uri()}/models/m-of-another/artifacts",
    }[form]
    run_id = store.client.create_run(store.experiment_id).info.run_id
    pending_model_at(store, run_id, workspace, address)
    before, registered_before = content(home), content(own / "models")
    assert register(store, run_id, model).created
    assert content(home) == before
    assert (
        registered_before.items()
        <= {name: text for name, text in _texts(own / "models").items() if "m-of-another" in name}.items()
    )


def _texts(folder: Path) -> dict[str, str]:
    return {str(path): path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()}


def test_a_server_that_names_a_folder_here_gets_nothing_written_there(
    store: TrackingStore, workspace: Workspace, model: Path, home: Path
) -> None:
    """Its own files are anywhere; a path of this machine, even in our store, is not its to name."""
    run_id = store.client.create_run(store.experiment_id).info.run_id
    pending_model_at(store, run_id, workspace, (home / "artifacts").as_uri())
    servers = replace(store, artifacts=None)  # as open_store gives it for tracking.uri: http://…
    before = content(home)
    with pytest.raises(UserError, match="a folder of this machine"):
        register(servers, run_id, model)
    assert content(home) == before
    assert servers.client.search_model_versions("name = 'voice'") == []
    assert not list((workspace.root / "mlruns").rglob("model.safetensors"))


def server(store: TrackingStore, workspace: Workspace, **addresses: str) -> TrackingStore:
    """As open_store gives it for tracking.uri: http://…, of a server whose runs and models are said to lie there."""

    class Lying(Client):
        def create_run(self, *arguments: Any) -> Any:
            run = store.client.create_run(*arguments)
            change("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", addresses["run"], run.info.run_id)
            return run

        def create_logged_model(self, *arguments: Any, **named: Any) -> Any:
            model = store.client.create_logged_model(*arguments, **named)
            lie = "UPDATE logged_models SET artifact_location = ? WHERE model_id = ?"
            change(lie, addresses["model"], model.model_id)
            return store.client.get_logged_model(model.model_id)

    def change(statement: str, *values: str) -> None:
        with closing(sqlite3.connect(workspace.tracking_db)) as database, database:
            database.execute(statement, values)

    lying: Any = Lying(store, lambda metrics: None)
    return replace(store, artifacts=None, client=lying)


@pytest.mark.parametrize("form", ["runs:/{}/x", "runs://{}/x", "RUNS:/{}/x", "FILE://{home}", "unknown://x", "C:/x"])
@pytest.mark.parametrize("what", ["run", "model"])
def test_no_address_that_may_end_up_here_gets_anything_written(
    store: TrackingStore, workspace: Workspace, model: Path, home: Path, form: str, what: str
) -> None:
    """Another run's, which MLflow looks up, least of all."""
    elsewhere = store.client.create_experiment("elsewhere", home.as_uri())
    address = form.format(store.client.create_run(elsewhere).info.run_id, home=home)
    evaluate(workspace, model, created=2)
    before = content(home)
    servers = server(store, workspace, run=address, model=address)
    with pytest.raises(UserError, match="a folder of this machine"):
        if what == "run":
            list(deliver_backlog(workspace, lambda: servers))
        else:
            register(servers, store.client.create_run(store.experiment_id).info.run_id, model)
    assert content(home) == before


def test_what_was_checked_is_what_is_written_to(
    store: TrackingStore, workspace: Workspace, model: Path, home: Path
) -> None:
    """Asked again, a server may name another address."""
    evaluate(workspace, model, created=2)
    before = content(home)

    class Fickle(Client):
        def get_run(self, run_id: str) -> Any:
            run = store.client.get_run(run_id)
            run.info._artifact_uri = "mlflow-artifacts:/1/artifacts"
            return run

    lying = server(store, workspace, run=home.as_uri()).client.create_run
    fickle: Any = Fickle(store, lambda metrics: None)
    fickle.create_run = lying
    with pytest.raises(Exception, match="URI"):  # mlflow-artifacts: is sent to tracking.uri, which is no server here
        list(deliver_backlog(workspace, lambda: replace(store, artifacts=None, client=fickle)))
    assert content(home) == before


def test_nothing_is_restored_from_an_address_that_may_end_up_here(
    store: TrackingStore, workspace: Workspace, model: Path
) -> None:
    shutil.copy(PROJECT / "params.yaml", workspace.params)
    name = load_params(workspace.params).registry.model_name
    digest = sha256_file(model / WEIGHTS)
    (model / MODEL_CARD).write_text(json.dumps({"sha256": digest}))
    run = store.client.create_run(store.experiment_id).info.run_id
    register_best(store, run, name, model, SERVING_CODE, digest, {"phase": "phase2", "step": "7"}, {})
    store.client.log_artifacts(run, str(model), f"x/{MODEL_FOLDER}")
    for address in f"runs:/{run}/x", (model.parent / "elsewhere").as_uri():
        with closing(sqlite3.connect(workspace.tracking_db)) as database, database:
            database.execute("UPDATE model_versions SET source = ?, storage_location = ?", (address, address))
        with pytest.raises(UserError, match="a folder of this machine"):
            list(restore_text(workspace, "1"))
    assert not workspace.model("phase2").exists()


def test_an_experiment_elsewhere_gets_nothing_written_there(
    store: TrackingStore, workspace: Workspace, tracking: TrackingParams, home: Path
) -> None:
    store.client.create_experiment("elsewhere", home.as_uri())
    with pytest.raises(UserError, match="a folder of this machine"):
        open_store(workspace, tracking.model_copy(update={"experiment": "elsewhere"}))


def test_a_version_elsewhere_is_not_counted_as_ours(
    store: TrackingStore, workspace: Workspace, model: Path, home: Path
) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    register(store, run_id, model)
    [(what, _, _)] = registered(workspace)
    assert what == "voice version 1"
    with closing(sqlite3.connect(workspace.tracking_db)) as database, database:
        database.execute("UPDATE model_versions SET source = ?", (home.as_uri(),))
    assert list(registered(workspace)) == []


@pytest.mark.parametrize("before", ["file:///mlruns/artifacts", "s3://bucket/mlruns/artifacts"])
def test_a_forged_move_changes_no_other_address(
    store: TrackingStore, workspace: Workspace, tracking: TrackingParams, home: Path, before: str
) -> None:
    other = store.client.create_experiment("other", home.as_uri())
    with closing(sqlite3.connect(workspace.tracking_db)) as database, database:
        change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
        database.execute(change, (before, store.experiment_id))
    opened = open_store(workspace, tracking)
    assert opened.client.get_experiment(other).artifact_location == home.as_uri()
