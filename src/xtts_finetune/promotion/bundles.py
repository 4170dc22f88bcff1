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
from xtts_finetune.tracking.versions import Versions, has_its_weights

_NEEDED = (WEIGHTS, MODEL_CARD, REFERENCE, SETTINGS, *BUNDLE_BASE_FILES)
_MAY_BE = tuple(f"{BUNDLE_BASE}/{name}" for name in (VOCODER, CODEC, NEW_ROWS))


@contextmanager
def bundle(workspace: Workspace, params: Params, registry: Versions, version: Version) -> Iterator[Path]:
    """The folder of a version's bundle, as links where the store is a folder here, else downloaded.

    Raises:
        UserError: files are gone, the weights are not those that were registered, or they have no room.
    """
    where, sizes = f"{version.name} version {version.version}", registry.sizes(version)
    names = [name for name in (*_NEEDED, *_MAY_BE) if name in sizes]
    lacking = [name for name in _NEEDED if name not in sizes]
    if lacking:
        problem = Problem(where, f"its files cannot be had: {', '.join(lacking)}", "choose another version")
        raise UserError("the registered model cannot be used", [problem])
    with full_disk_raises(), scratch_folder(workspace.compared) as folder:
        if registry.own_folder(version) is None:
            preflight_fetch(workspace, params, [Term(folder, name, 1, sizes[name]) for name in names], where)
        registry.fetch(version, folder, names)
        if not has_its_weights(folder, version):
            problem = Problem(where, "its weights are not those that were registered", "choose another version")
            raise UserError("the registered model cannot be used", [problem])
        yield folder
