"""The MLflow store of a workspace: its own database, or a server.

mlflow takes seconds to import: only inside functions.
"""

import importlib
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import Workspace, lock_of
from xtts_finetune.core.params import TrackingParams

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_ENVIRONMENT = {  # read by mlflow when it is imported; the user's own values win
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # at ERROR it prints a traceback for every write that a full disk refuses
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The outbox tries again, and looks first: a server that hung would make each repeated request come true.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: "20",  # seconds
}
_ARTIFACTS = "/mlruns/artifacts"  # below the workspace's root
_ADDRESS_COLUMNS = (  # where MLflow stores absolute addresses of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# Of addresses where MLflow's client sends files off this machine. Not runs: and models:, which a server resolves to
# any other address, nor what a plugin brings.
_REMOTE = frozenset({"abfss", "b2", "gs", "r2", "s3", "wasbs", "hdfs", "viewfs", "dbfs"})
_REMOTE |= {"http", "https", "mlflow-artifacts", "ftp", "sftp"}
_SQLITE = "sqlite:///"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@dataclass(frozen=True)
class TrackingStore:
    """An open tracking store and model registry."""

    client: "MlflowClient"
    experiment_id: str
    uri: str
    artifacts: Path | None  # where the workspace's own database keeps files; None: another's store keeps them
    workspace_id: str  # of the workspace that opened it
    lock: Path  # held while a run that several deliveries share is looked for, made or changed

    @property
    def is_local(self) -> bool:
        """Whether it is a database on a disk of this machine."""
        return self.uri.startswith(_SQLITE)

    def own_folder(self, address: str, *parts: str) -> Path | None:
        """The folder `parts` of this workspace's own store, if `address` means just that; None: any other place."""
        if self.artifacts is None:
            return None
        place, path = self.artifacts.resolve().joinpath(*parts), local_path(address)
        return place if path and path.resolve() == place else None

    def artifact_repository(self, address: str, *parts: str) -> "ArtifactRepository":
        """MLflow's way to the files at an artifact address: asked for the address again, a server may name another.

        Args:
            parts: of the folder of this workspace's own store that the address may mean.

        Raises:
            UserError: the address is, or may be, any other folder of this machine.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        own = self.own_folder(address, *parts)
        if own:
            return get_artifact_repository(own.as_uri(), tracking_uri=self.uri)
        self.refuse_foreign_path(address)
        address = add_databricks_profile_info_to_artifact_uri(address, self.uri)
        repository = get_artifact_repository(address, tracking_uri=self.uri)
        if isinstance(repository, LocalArtifactRepository):  # dbfs:, on a machine of Databricks
            raise self._foreign_path(address)
        return repository

    def refuse_foreign_path(self, address: str) -> None:
        """Refuse an artifact address, no own folder, where MLflow's client might write to a folder of this machine.

        Raises:
            UserError: a server or a database chose that path, not the user.
        """
        if urlsplit(address).scheme not in _REMOTE:
            raise self._foreign_path(address)

    def _foreign_path(self, address: str) -> UserError:
        what = f"keeps files at {address}: that is, or may be, a folder of this machine that is not mlruns/artifacts"
        remedy = "choose another tracking.experiment, or let a server keep them (mlflow server --serve-artifacts)"
        return UserError("nothing is read or stored there", [Problem(f"tracking: {self.uri}", what, remedy)])


def load_mlflow() -> None:
    """Import mlflow with the settings that it reads then; takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    importlib.import_module("mlflow")


def is_local(tracking: TrackingParams) -> bool:
    """Whether MLflow's store is a database on a disk of this machine, which answers without a server."""
    return tracking.uri is None or tracking.uri.startswith(_SQLITE)


def open_store(workspace: Workspace, tracking: TrackingParams) -> TrackingStore:
    """Open the tracking server, or the database of this workspace, with the experiment in it (created if missing).

    A database whose workspace was moved or copied gets its artifact addresses corrected.

    Raises:
        UserError: the store does not answer, is damaged or of another MLflow's schema, or its experiment was deleted.
    """
    load_mlflow()
    home = Workspace(workspace.home.root.resolve())
    uri = tracking.uri or _SQLITE + home.tracking_db.as_posix()
    with _refused_if_unusable(uri):
        return _open(home, tracking, uri)


def _open(workspace: Workspace, tracking: TrackingParams, uri: str) -> TrackingStore:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    location = None if tracking.uri else workspace.root.as_uri() + _ARTIFACTS
    artifacts = None if tracking.uri else workspace.artifacts
    try:
        if location:
            workspace.tracking_db.parent.mkdir(exist_ok=True)
        client = MlflowClient(uri, registry_uri=uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            experiment = client.get_experiment(client.create_experiment(tracking.experiment, location))
    except MlflowException as error:
        remedy = "start the server, or set tracking.uri: null" if tracking.uri else f"mlflow db upgrade {uri}"
        raise UserError("MLflow cannot be used", [Problem(f"tracking.uri: {uri}", reason(error), remedy)]) from error
    if experiment.lifecycle_stage != "active":
        where = f"params.yaml: tracking.experiment = {tracking.experiment}"
        remedy = f"choose another name, or: mlflow experiments restore -x {experiment.experiment_id}"
        raise UserError("MLflow cannot be used", [Problem(where, "this experiment was deleted", remedy)])
    if location and experiment.artifact_location != location:
        _follow_move(workspace.tracking_db, experiment.artifact_location, location)
        experiment = client.get_experiment(experiment.experiment_id)
    store = TrackingStore(
        client, experiment.experiment_id, uri, artifacts, _workspace_id(workspace), workspace.pipelines_lock
    )
    if location and not store.own_folder(experiment.artifact_location):
        store.refuse_foreign_path(experiment.artifact_location)
    return store


def _workspace_id(workspace: Workspace) -> str:
    """Random, and made once."""
    file = workspace.id_file
    if not file.exists():
        from filelock import FileLock

        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_of(file)):
            if not file.exists():
                write_text(file, f"{uuid.uuid4().hex}\n")
    return file.read_text(encoding="utf-8").strip()


@contextmanager
def _refused_if_unusable(uri: str) -> Iterator[None]:
    """Refuse a database in which SQLite finds damage, or that others hold, whatever wraps its error."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and getattr(cause, "sqlite_errorcode", 0) & 0xFF not in (*_DAMAGE, *_BUSY):
            cause = cause.__cause__
        if cause is None:
            raise
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            busy = Problem(
                uri.removeprefix(_SQLITE), f"another program holds it: {cause}", "end it; then type it again"
            )
            raise UserError("MLflow cannot be used", [busy]) from error
        remedy = (
            "move it away, and the next run makes a new one. Lost is MLflow's list of earlier runs and registered "
            "versions; their files stay in mlruns/artifacts, and models/ and reports/ are untouched"
        )
        where = uri.removeprefix(_SQLITE)
        raise UserError(
            "MLflow cannot be used", [Problem(where, f"the database is damaged: {cause}", remedy)]
        ) from error


def _follow_move(database: Path, before: str, now: str) -> None:
    """Correct every artifact address below the mlruns/ that the workspace had before it was moved."""
    stores = [address.removesuffix("/artifacts") for address in (before, now)]
    paths = [local_path(store) for store in stores]
    if not before.endswith(_ARTIFACTS) or not all(paths):
        return  # someone gave the experiment another place on purpose
    with closing(sqlite3.connect(database)) as connection, connection:
        for old, new in (f"{stores[0]}/", f"{stores[1]}/"), (f"{paths[0]}{os.sep}", f"{paths[1]}{os.sep}"):
            for table, column in _ADDRESS_COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )
    print(
        f"mlruns: moved here from {paths[0] and paths[0].parent}; MLflow's artifact addresses are corrected",
        file=sys.stderr,
    )


def local_path(uri: str) -> Path | None:
    """The path that an artifact address means on this machine; None for a server's or a bucket's."""
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return Path(_pathname(urlsplit(uri).path))
    is_drive = len(scheme) == 1  # C:\voices
    return None if scheme and not is_drive else Path(uri)


def _pathname(path: str) -> str:
    """Of a file's address."""
    if os.name != "nt":
        return unquote(path)  # as url2pathname does, whose module loads ssl and more
    from urllib.request import url2pathname

    return url2pathname(path)


def path_in(store: Path, address: str) -> Path | None:
    """The path that an artifact address means, if it lies below `store` when links and ".." are followed."""
    path = local_path(address)
    return path.resolve() if path and store.resolve() in path.resolve().parents else None


def reason(error: Exception) -> str:
    """Why, in a line: what the operating system said in the first place, where it did.

    Around a refused connection MLflow and its libraries put three errors, with URLs and object dumps.
    """
    if isinstance(error, UserError):
        return f"{error.problems[0].where}: {error.problems[0].what}"
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    if isinstance(root, OSError) and root.strerror:
        return f"{root.strerror}: {root.filename}" if root.filename else root.strerror
    if "Read timed out" in str(error):
        return f"it is there, and does not answer in {os.environ.get(TIMEOUT, '?')} s"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
