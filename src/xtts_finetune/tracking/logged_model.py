"""What a registered version's files are in MLflow: a logged model, filled with links where the store is our own.

mlflow takes seconds to import: only inside functions.
"""

import filecmp
import importlib.metadata
import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import discard, fsync_path, link_or_copy, link_tree, scratch_folder
from xtts_finetune.core.layout import WEIGHTS
from xtts_finetune.tracking.connection import TIMEOUT, TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

WEIGHTS_TAG = "model_sha256"
PARAMETERS_TAG = "parameters"  # of the whole network
GOING_TAG = "going"  # on a logged model whose version is being deleted: its files may be half gone
LANGUAGE_TAG = "language"  # that it was heard in
PARAM = "param."  # begins the tags with what the model was trained with
MLFLOW_MODEL = "MLmodel"  # how MLflow loads it, in a logged model
MODEL_FOLDER = "artifacts/model"  # of the model's own files, in a logged model

Told = Callable[[int, str], None]  # of a version: its number, and the SHA-256 of its weights

_EXAMPLE = "Welcome back to the show!"  # of what the model takes
_SERVING_PACKAGES = ("coqui-tts", "mlflow", "pandas", "torch", "transformers")
_DELETABLE = frozenset({"http", "https", "mlflow-artifacts", "s3", "gs", "r2"})
_UPLOAD_TIMEOUT = 600  # seconds that a server may take to store one file


def whole_model(store: TrackingStore, run_id: str, model_name: str, model_sha256: str) -> "LoggedModel | None":
    """A logged model of these weights that a crash left without its version; incomplete ones are removed.

    Not one that `delete_version` is at: that goes on with it.
    """
    filter_string = f"tags.{WEIGHTS_TAG} = '{model_sha256}' AND name = '{model_name}' AND source_run_id = '{run_id}'"
    whole = None
    for model in store.client.search_logged_models([store.experiment_id], filter_string):
        if GOING_TAG in model.tags:
            continue
        if model.status == "READY":
            whole = model
        else:  # no version ever refers to one that isn't ready
            own = _own_folder(store, model)
            if own and own.parent.exists():
                discard(own.parent)
            store.client.delete_logged_model(model.model_id)
    return whole


def log_model(
    store: TrackingStore,
    run_id: str,
    model_name: str,
    folder: Path,
    serving_code: Path,
    model_sha256: str,
    tags: Mapping[str, str],
    samples: Path | None,
) -> "LoggedModel":
    """Create the logged model and fill it; it is ready only when every file is on the disk.

    Raises:
        UserError: the store would have it written to a path of this machine that is not the workspace's own.
    """
    client = store.client
    model = client.create_logged_model(
        store.experiment_id,
        name=model_name,
        source_run_id=run_id,
        tags={WEIGHTS_TAG: model_sha256},
        params={name.removeprefix(PARAM): text for name, text in tags.items() if name.startswith(PARAM)},
    )
    own = _own_folder(store, model)
    if own:
        _save_pyfunc(own, model, run_id, folder, serving_code, tags, samples)
    else:  # beside the weights, so that they are linked here, too
        repository = store.artifact_repository(model.artifact_location)
        with scratch_folder(folder.parent / "upload") as temporary:
            _save_pyfunc(temporary, model, run_id, folder, serving_code, tags, samples)
            with _patience():
                repository.log_artifacts(str(temporary))
    return client.finalize_logged_model(model.model_id, "READY")


def refill(
    store: TrackingStore,
    model: "LoggedModel",
    run_id: str,
    folder: Path,
    serving_code: Path,
    tags: Mapping[str, str],
    samples: Path | None,
) -> None:
    """Give a logged model back what somebody deleted of its files in the workspace's own store.

    Args:
        folder: of the same weights, which were checked.
    """
    own = _own_folder(store, model)
    if own is None:
        return
    if (own / MLFLOW_MODEL).is_file():
        _fill_up(folder, own / MODEL_FOLDER)
        return
    with scratch_folder(own.parent / "refill") as whole:
        _save_pyfunc(whole, model, run_id, folder, serving_code, tags, samples)
        _fill_up(whole, own)


def _fill_up(source: Path, target: Path) -> None:
    """Link what is lacking there, and weights that are others; nothing else that is there is touched.

    A card of the same model says when it was evaluated, and may differ.
    """
    for file in [each for each in source.rglob("*") if each.is_file()]:
        place = target / file.relative_to(source)
        is_there = place.is_file()
        if is_there and (file.name != WEIGHTS or place.samefile(file) or filecmp.cmp(place, file, shallow=False)):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        link_or_copy(file, place)
        fsync_path(place.parent)


def logged_models(store: TrackingStore, model_name: str) -> "dict[str, LoggedModel]":
    """All of a model, by the address of their files, which is their version's, too: nothing else links them."""
    found: dict[str, LoggedModel] = {}
    token = None
    while True:
        page = store.client.search_logged_models([store.experiment_id], f"name = '{model_name}'", page_token=token)
        found |= {model.artifact_location: model for model in page}
        token = page.token
        if not token:
            return found


def in_use(store: TrackingStore) -> dict[str, list[str]]:
    """Who has files at an address: versions of any registered model, in words; MLflow's pages can make two of one."""
    users: dict[str, list[str]] = {}
    token = None
    while True:
        page = store.client.search_model_versions("", page_token=token)
        for item in page:
            users.setdefault(str(item.source), []).append(f"{item.name} version {item.version}")
        token = page.token
        if not token:
            return users


def delete_version(store: TrackingStore, number: int, model: "LoggedModel", told: Told) -> None:
    """Delete a version and its files: first who names them, so that no version is ever without its files.

    Killed before its end, `delete_unnamed` goes on.

    Args:
        told: is called once it is gone, before nothing is left that tells so.

    Raises:
        MlflowException: the store refuses.
        UserError: its files lie where nobody may, or can, delete them; nothing was deleted.
    """
    _files_of(store, model)
    store.client.set_logged_model_tags(model.model_id, {GOING_TAG: str(number)})
    store.client.delete_model_version(model.name, str(number))
    _delete_model(store, model, number, told)


def delete_unnamed(store: TrackingStore, model_name: str, named: Collection[str], told: Told) -> int:
    """Delete what a kill has left of versions that were being deleted; how many there were.

    Args:
        named: the addresses of the versions that are left.
        told: as of `delete_version`.
    """
    models = logged_models(store, model_name)
    left = [model for address, model in models.items() if GOING_TAG in model.tags and address not in named]
    for model in left:
        _delete_model(store, model, int(model.tags[GOING_TAG]), told)
    return len(left)


def _delete_model(store: TrackingStore, model: "LoggedModel", number: int, told: Told) -> None:
    files = _files_of(store, model)
    if isinstance(files, Path):
        if files.parent.exists():
            discard(files.parent)
    else:
        files.delete_artifacts()  # MLflow's own deletion of a model leaves them
    told(number, model.tags.get(WEIGHTS_TAG, ""))
    store.client.delete_logged_model(model.model_id)


def _files_of(store: TrackingStore, model: "LoggedModel") -> "Path | ArtifactRepository":
    """Where they lie: a folder of the workspace's own store, or another's keeping.

    Raises:
        UserError: another folder of this machine, or a store of which MLflow cannot delete.
    """
    own = _own_folder(store, model)
    if own:
        return own
    repository = store.artifact_repository(model.artifact_location)
    scheme = urlsplit(model.artifact_location).scheme
    if scheme in _DELETABLE:
        return repository
    what = f"MLflow cannot delete files at {scheme}: addresses"
    raise UserError("no version was deleted", [Problem(model.artifact_location, what, "delete them there, by hand")])


def _own_folder(store: TrackingStore, model: "LoggedModel") -> Path | None:
    """Where a logged model's files belong in this workspace's own store; None if the store names any other place."""
    return store.own_folder(model.artifact_location, "models", model.model_id, "artifacts")


def _save_pyfunc(
    target: Path,
    model: "LoggedModel",
    run_id: str,
    folder: Path,
    serving_code: Path,
    tags: Mapping[str, str],
    samples: Path | None,
) -> None:
    """Write MLflow's configuration into `target` and link the files of `folder` and `samples` beside it."""
    import mlflow.pyfunc
    import pandas  # type: ignore[import-untyped]
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("string", "text"), ColSpec("string", "language", required=False)])
    outputs = Schema([ColSpec("string", "audio_wav_base64"), ColSpec("long", "sample_rate")])
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = Path(scratch, Path(MODEL_FOLDER).name)
        empty.mkdir()  # MLflow copies what is in it; the files are linked below
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(serving_code),
            artifacts={"model": str(empty)},
            pip_requirements=[f"{name}=={_public_version(name)}" for name in _SERVING_PACKAGES],
            signature=ModelSignature(inputs, outputs),  # given, so that the model is not run on the example
            input_example=pandas.DataFrame({"text": [_EXAMPLE], "language": [tags.get(LANGUAGE_TAG, "en")]}),
            mlflow_model=Model(model_id=model.model_id, model_uuid=model.model_id, run_id=run_id),
        )
    link_tree(folder, target / MODEL_FOLDER)
    if samples and samples.is_dir():
        link_tree(samples, target / "samples")
    for path in [*target.rglob("*"), target, *target.parents[:2]]:
        fsync_path(path)


def _public_version(package: str) -> str:
    """The installed version, without a build's suffix (+cu128), which no index knows."""
    return importlib.metadata.version(package).partition("+")[0]


@contextmanager
def _patience() -> Iterator[None]:
    """Give a server time to store a file of gigabytes: metrics are bounded to seconds."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(max(int(before), _UPLOAD_TIMEOUT))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before
