"""A registered version's files, checked, in a folder of this process's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtts_finetune.core.disk import full_disk_raises
from xtts_finetune.core.errors import Problem, UserError
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
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions, has_its_weights, way_to_be_whole

_NEEDED = (WEIGHTS, MODEL_CARD, REFERENCE, SETTINGS, *BUNDLE_BASE_FILES)
_MAY_BE = tuple(f"{BUNDLE_BASE}/{name}" for name in (VOCODER, CODEC, NEW_ROWS))


@contextmanager
def bundle(workspace: Workspace, params: Params, registry: Versions, version: Version) -> Iterator[Path]:
    """The folder of a version's bundle, as links where the store is a folder here, else downloaded.

    Raises:
        UserError: files are gone, the weights are not those that were registered, or they have no room.
    """
    sizes, where = _sizes(registry, version), _named(version)
    names = [name for name in (*_NEEDED, *_MAY_BE) if name in sizes]
    with full_disk_raises(), scratch_folder(workspace.compared) as folder:
        if registry.own_folder(version) is None:
            preflight_fetch(workspace, params, [Term(folder, name, 1, sizes[name]) for name in names], where)
        registry.fetch(version, folder, names)
        _refuse_others(folder, version)
        yield folder


def refuse_incomplete(registry: Versions, version: Version) -> None:
    """Before it is given a name by which others take it. Of another's keeping the weights are not read.

    Raises:
        UserError: files are gone, or the weights are not those that were registered.
    """
    _sizes(registry, version)
    if folder := registry.own_folder(version):
        _refuse_others(folder, version)


def _sizes(registry: Versions, version: Version) -> dict[str, int]:
    sizes = registry.sizes(version)
    lacking = [name for name in _NEEDED if name not in sizes]
    if lacking:
        raise _unusable(version, f"its files cannot be had: {', '.join(lacking)}")
    return sizes


def _refuse_others(folder: Path, version: Version) -> None:
    if not has_its_weights(folder, version):
        raise _unusable(version, "its weights are not those that were registered")


def _unusable(version: Version, what: str) -> UserError:
    return UserError("the registered model cannot be used", [Problem(_named(version), what, way_to_be_whole(version))])


def _named(version: Version) -> str:
    return f"{version.name} version {version.version}"
