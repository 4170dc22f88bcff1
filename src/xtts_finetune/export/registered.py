"""A registered version to be exported, whatever lies in the workspace.

Weights, base, voice and settings come from its bundle; its phase, step, figures, language and the name of its base from
its tags. Of the workspace there are only the language, where a version of before does not tell it, and the weights
beside which adapters were trained, where the version was registered without them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtts_finetune.cards.gathering import base_of
from xtts_finetune.cards.lineage import Lineage
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import scratch_folder
from xtts_finetune.core.layout import (
    BUNDLE_BASE,
    BUNDLE_BASE_FILES,
    CARD,
    DATA_CARD,
    LINEAGE,
    REFERENCE,
    SETTINGS,
    VOCODER,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.core.params import EvaluateParams, Params
from xtts_finetune.diskspace.sizes import WEIGHT_BYTES
from xtts_finetune.export.source import DAMAGED, FIGURES, TITLE, Files, Origin, Source, in_place
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Told, Versions, shown

_VOCODER = f"{BUNDLE_BASE}/{VOCODER}"
_PAPERS = (LINEAGE, DATA_CARD)  # its own card is written anew: it says how to load what is registered
_NEEDED = [WEIGHTS, REFERENCE, SETTINGS, *BUNDLE_BASE_FILES]


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
    told, sizes, here = Told.of(version), registry.sizes(version), registry.own_folder(version)
    lacking = [name for name in _NEEDED if name not in sizes]
    if lacking:
        raise _refusal(version, f"its files cannot be had: {', '.join(lacking)}")
    names = {*_NEEDED, *(name for name in sizes if name.startswith(f"{BUNDLE_BASE}/") or name in _PAPERS)}
    origin = _origin(version, told, params)
    return Source(
        origin=origin,
        has_vocoder=_VOCODER in sizes,  # mini's has a DVAE instead
        # of weights the file may have the trained ones alone
        bytes=max(sizes[WEIGHTS], WEIGHT_BYTES * (told.parameters or 0)) + sizes.get(_VOCODER, 0),
        downloaded_bytes=0 if here else sum(sizes[name] for name in names),
        open=lambda: (
            _opened(here, workspace, origin)
            if here
            else _downloaded(workspace, registry, version, sorted(names), origin)
        ),
        doubts=() if told.language else (f"its language is not recorded: {CARD} has params.yaml's",),
    )


def _origin(version: Version, told: Told, params: Params) -> Origin:
    """What its tags tell, which on a server anybody may edit."""
    for name, text in (("phase", told.phase), ("base", told.base)):
        if not text.isprintable():
            raise _refusal(version, f"its tag {name} has characters that cannot be shown: {text!r}")
    return Origin(
        title=f"{version.name} {shown(version)}",
        phase=told.phase or "not known",
        step=told.step,
        best_weights=told.best_weights,
        base=told.base or "not known",
        language=told.language or params.prepare.language,
        sha256=told.sha256,
        figures={name: told.figures[name] for name in FIGURES if name in told.figures},
        is_registered=True,
    )


def _refusal(version: Version, what: str) -> UserError:
    return UserError(TITLE, [Problem(f"{version.name} version {version.version}", what, "choose another model")])


@contextmanager
def _opened(bundle: Path, workspace: Workspace, origin: Origin) -> Iterator[Files]:
    files = _files(bundle, workspace, origin)
    with in_place(files, files.seen()):
        yield files


@contextmanager
def _downloaded(
    workspace: Workspace, registry: Versions, version: Version, names: list[str], origin: Origin
) -> Iterator[Files]:
    with scratch_folder(workspace.downloads) as folder:
        print(f"fetching version {version.version} from {registry.store.uri}", flush=True)
        registry.fetch(version, folder, names)
        yield _files(folder, workspace, origin)


def _files(bundle: Path, workspace: Workspace, origin: Origin) -> Files:
    try:
        settings = EvaluateParams.model_validate_json((bundle / SETTINGS).read_text(encoding="utf-8"))
    except DAMAGED as error:
        problem = Problem(str(bundle / SETTINGS), f"cannot be read: {error}", "choose another model")
        raise UserError(TITLE, [problem]) from None
    lineage, data_card = _lineage(bundle, origin), bundle / DATA_CARD
    return Files(
        weights=bundle / WEIGHTS,
        base=bundle / BUNDLE_BASE,
        root=workspace.root,
        reference=bundle / REFERENCE,
        settings=settings,
        lineage=origin.completed(lineage),
        data_card=data_card if data_card.is_file() else None,
    )


def _lineage(bundle: Path, origin: Origin) -> Lineage:
    """As it was registered; of a version of before, what its tags tell."""
    file = bundle / LINEAGE
    if file.is_file():
        return Lineage.read(file, origin.sha256)
    return Lineage(model=origin.model, base=base_of(bundle / BUNDLE_BASE, origin.base), language=origin.language)
