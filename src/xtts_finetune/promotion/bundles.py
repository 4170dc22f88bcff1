"""A registered version's files, checked, in a folder of this process's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtts_finetune.core.disk import full_disk_raises
from xtts_finetune.core.files import scratch_folder
from xtts_finetune.core.layout import (
    BUNDLE_BASE,
    BUNDLE_BASE_FILES,
    CODEC,
    MODEL_CARD,
    NEW_ROWS,
    REFERENCE,
    SETTINGS,
    VOCODER,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_fetch
from xtts_finetune.tracking.logged_model import MLFLOW_MODEL
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import NotWhole, Versions, has_its_weights

_NEEDED = (WEIGHTS, MODEL_CARD, REFERENCE, SETTINGS, *BUNDLE_BASE_FILES)
_MAY_BE = tuple(f"{BUNDLE_BASE}/{name}" for name in (VOCODER, CODEC, NEW_ROWS))


@contextmanager
def bundle(workspace: Workspace, params: Params, registry: Versions, version: Version) -> Iterator[Path]:
    """The folder of a version's bundle, as links where the store is a folder here, else downloaded.

    Raises:
        UserError: files are gone, the weights are not those that were registered, or they have no room.
    """
    sizes, is_own = _sizes(registry, version), registry.own_folder(version) is not None
    names = [name for name in (*_NEEDED, *_MAY_BE) if name in sizes]
    with full_disk_raises(), scratch_folder(workspace.compared) as folder:
        if not is_own:
            terms = [Term(folder, name, 1, sizes[name]) for name in names]
            preflight_fetch(workspace, params, terms, f"{version.name} version {version.version}")
        registry.fetch(version, folder, names)
        _refuse_others(folder, version, is_own)
        yield folder


def refuse_incomplete(registry: Versions, version: Version) -> None:
    """Before it is given a name by which others take it. Of another's keeping the weights are not read.

    Raises:
        NotWhole: files are gone, or the weights are not those that were registered.
        UserError: MLflow does not say.
    """
    _sizes(registry, version)
    folder = registry.own_folder(version)
    if folder is None:
        return
    _refuse_others(folder, version, is_own=True)
    if not (folder.parents[1] / MLFLOW_MODEL).is_file():
        raise NotWhole.because(version, f"its files cannot be had: {MLFLOW_MODEL}", is_own=True)


def _sizes(registry: Versions, version: Version) -> dict[str, int]:
    sizes = registry.sizes(version)
    lacking = [name for name in _NEEDED if name not in sizes]
    if lacking:
        what = f"its files cannot be had: {', '.join(lacking)}"
        raise NotWhole.because(version, what, registry.own_folder(version) is not None)
    return sizes


def _refuse_others(folder: Path, version: Version, is_own: bool) -> None:
    if not has_its_weights(folder, version):
        raise NotWhole.because(version, "its weights are not those that were registered", is_own)
