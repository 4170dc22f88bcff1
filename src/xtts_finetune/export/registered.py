"""A registered version to be exported: all of it comes from its bundle, whatever lies in the workspace."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import scratch_folder
from xtts_finetune.core.layout import (
    BASE_INFO,
    BUNDLE_BASE,
    CONFIG,
    MEL_STATS,
    REFERENCE,
    SETTINGS,
    VOCABULARY,
    VOCODER,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.core.params import EvaluateParams, Params
from xtts_finetune.diskspace.budget import WEIGHT_BYTES
from xtts_finetune.export.source import DAMAGED, FIGURES, TITLE, Files, Origin, Source
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import PARAMETERS_TAG, WEIGHTS_TAG
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions, shown

_VOCODER = f"{BUNDLE_BASE}/{VOCODER}"
_OF_BASE = [f"{BUNDLE_BASE}/{name}" for name in (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS)]
_NEEDED = [WEIGHTS, REFERENCE, SETTINGS, *_OF_BASE, _VOCODER]


def registry_of(workspace: Workspace, params: Params) -> Versions | None:
    """The registered versions; None where this workspace's own store has yet to be made.

    Raises:
        UserError: MLflow cannot be used.
    """
    if params.tracking.uri is None and not workspace.tracking_db.is_file():
        return None
    return Versions.of(open_store(workspace, params.tracking), params.registry.model_name)


def of_version(workspace: Workspace, params: Params, wanted: str) -> Source | None:
    """By number or alias; None: there is none.

    Raises:
        UserError: its files are gone, or MLflow cannot be used.
    """
    registry = registry_of(workspace, params)
    version = registry.get(wanted) if registry else None
    if registry is None or version is None:
        return None
    sizes, here = registry.sizes(version), registry.own_folder(version)
    lacking = [name for name in _NEEDED if name not in (*sizes, _VOCODER)]
    if lacking:
        what = f"its files cannot be had: {', '.join(lacking)}"
        raise UserError(TITLE, [Problem(f"{version.name} version {version.version}", what, "choose another model")])
    return Source(
        origin=_origin(version),
        has_vocoder=_VOCODER in sizes,  # mini's has a DVAE instead
        bytes=_whole(sizes[WEIGHTS], version) + sizes.get(_VOCODER, 0),
        downloaded_bytes=0 if here else sum(sizes.get(name, 0) for name in _NEEDED),
        open=lambda: nullcontext(_files(here, workspace)) if here else _downloaded(workspace, registry, version),
    )


def _whole(weights: int, version: Version) -> int:
    """Bytes of a network's weights, of which the file may have the trained ones alone."""
    return max(weights, WEIGHT_BYTES * int(version.tags.get(PARAMETERS_TAG, 0)))


def _origin(version: Version) -> Origin:
    tags = version.tags
    return Origin(
        title=f"{version.name} {shown(version)}",
        phase=tags.get("phase", ""),
        step=int(tags.get("step", 0)),
        base=tags.get("base", ""),
        sha256=tags.get(WEIGHTS_TAG, ""),
        figures={name: float(tags[f"eval_{name}"]) for name in FIGURES if f"eval_{name}" in tags},
    )


@contextmanager
def _downloaded(workspace: Workspace, registry: Versions, version: Version) -> Iterator[Files]:
    with scratch_folder(workspace.downloads) as folder:
        print(f"fetching version {version.version} from {registry.store.uri}", flush=True)
        registry.fetch(version, folder, _NEEDED)
        yield _files(folder, workspace)


def _files(bundle: Path, workspace: Workspace) -> Files:
    try:
        settings = EvaluateParams.model_validate_json((bundle / SETTINGS).read_text(encoding="utf-8"))
    except DAMAGED as error:
        problem = Problem(str(bundle / SETTINGS), f"cannot be read: {error}", "choose another model")
        raise UserError(TITLE, [problem]) from None
    return Files(bundle / WEIGHTS, bundle / BUNDLE_BASE, workspace.root, bundle / REFERENCE, settings)
