"""`xtts-finetune base fetch`: XTTS v2 as published, or a registered model, into base/, to start a fine-tune from."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtts_finetune.checkpoints.lock import AGAIN, held_alone
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.disk import can_link, full_disk_raises
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import contained, published_folder, read_json
from xtts_finetune.core.layout import (
    BUNDLE_BASE,
    BUNDLE_BASE_FILES,
    CODEC,
    MODEL_CARD,
    VOCODER,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_fetch
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions, has_its_weights, shown

_TITLE = "nothing was fetched"
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d{1,9}))")
_OF_BUNDLE = (WEIGHTS, MODEL_CARD, *BUNDLE_BASE_FILES)
_SOUND = tuple(f"{BUNDLE_BASE}/{name}" for name in (VOCODER, CODEC))  # one of them, or both


def fetch_lines(workspace: Workspace, what: str | None, accepted: bool) -> Iterator[str]:
    """Bring a base, and say where it is and what to write into params.yaml.

    Args:
        what: models:/NAME@alias or models:/NAME/N; None: XTTS v2 as published.
        accepted: its licence.

    Raises:
        UserError: the licence is not accepted, there is no such model, it is not what was published or registered, it
            has no room, or it cannot be reached.
    """
    params = load_params(workspace.params, base="xtts_v2")  # whatever it is now: it may name what is to be fetched
    with _alone(workspace):
        if what is None:
            yield from _published(workspace, params, accepted)
        else:
            yield from _registered(workspace, params, what)


def _published(workspace: Workspace, params: Params, accepted: bool) -> Iterator[str]:
    from xtts_finetune.model.fetching import TITLE, fetch, part_of
    from xtts_finetune.model.published import LICENCE, LICENCE_TEXT, OPTIONAL, PUBLISHED, SIZES, xtts_v2_folder

    folder, wanted = xtts_v2_folder(workspace), PUBLISHED | OPTIONAL
    licence = f"XTTS v2 is under the {LICENCE}: non-commercial use only, for the model and for what it says"
    if not accepted:
        what = f"{licence}. Its text: {LICENCE_TEXT}"
        raise UserError(TITLE, [Problem(LICENCE, what, "accept it: xtts-finetune base fetch --accept-licence")])
    yield f"{licence}\n  {LICENCE_TEXT}"
    there = [name for name in wanted if os.path.lexists(folder / name)]
    checked = Bar(there, desc="checking what is there", unit="file", leave=False)
    others = [folder / name for name in checked if not _is(folder / name, wanted[name], workspace)]
    if others:
        what, remedy = "is not the published file, and may be your own", "move it away, or: rm "
        raise UserError(TITLE, [Problem(str(file), what, f"{remedy}{quoted(file)}") for file in others])
    lacking = {name: digest for name, digest in wanted.items() if name not in there}
    parts = {name: part_of(folder, name) for name in lacking}
    come = {name: part.stat().st_size if part.exists() else 0 for name, part in parts.items()}
    preflight_fetch(workspace, params, [Term(folder, name, 1, max(0, SIZES[name] - come[name])) for name in lacking])
    if lacking:
        yield from fetch(folder, lacking)
    yield f"all of XTTS v2 is in {folder}. In params.yaml: base: xtts_v2 (presets/xtts_v2.yaml has it)"


def _is(file: Path, digest: str, workspace: Workspace) -> bool:
    return file.is_file() and sha256_once(file, workspace.digests) == digest


def _registered(workspace: Workspace, params: Params, what: str) -> Iterator[str]:
    named = _REGISTERED.fullmatch(what)
    if not named:
        reason = "is neither models:/NAME@ALIAS nor models:/NAME/NUMBER"
        example = f"xtts-finetune base fetch models:/{params.registry.model_name}@champion"
        raise UserError(_TITLE, [Problem(repr(what), reason, f"as in: {example}; XTTS v2 itself needs no name")])
    registry = Versions.of(open_store(workspace, params.tracking), named[1])
    version = registry.get(named[2] or named[3])
    if version is None:
        known = registry.listed
        reason = f"there is no such version; there is:{known}" if known else "no version of it is registered"
        remedy = "dvc repro: its last stage, evaluate, registers the best; see params.yaml: registry, tracking.uri"
        remedy = "choose one of them" if known else remedy
        raise UserError(_TITLE, [Problem(f"{registry.store.uri}: {what}", reason, remedy)])
    name = f"{version.name}-{version.version}"
    folder = contained(workspace.base, name, what)
    if _is_that(folder, version):
        _refuse_part(folder, version, params)
        yield f"{folder}: {shown(version)} is there already"
    else:
        _bring(workspace, params, registry, version, folder)
        yield f"{folder}: {shown(version)}; every byte of its weights as it was registered"
    yield f"In params.yaml: base: {name}"


def _is_that(folder: Path, version: Version) -> bool:
    """Whether a folder has a version, whole."""
    files = [folder / name for name in _OF_BUNDLE]
    has_sound = any((folder / name).is_file() for name in _SOUND)
    return has_sound and all(file.is_file() for file in files) and has_its_weights(folder, version)


def _bring(workspace: Workspace, params: Params, registry: Versions, version: Version, folder: Path) -> None:
    """As links where the store is this workspace's own, else downloaded."""
    sizes, here = registry.sizes(version), registry.own_folder(version)
    where, other = f"{version.name} version {version.version}", "choose another version"
    sound = [name for name in _SOUND if name in sizes]
    lacking = [name for name in _OF_BUNDLE if name not in sizes] + ([] if sound else [_SOUND[0]])
    if lacking:
        raise UserError(_TITLE, [Problem(where, f"its files cannot be had: {', '.join(lacking)}", other)])
    names = [*_OF_BUNDLE, *sound]
    if not here or not can_link(here, folder.parent):
        preflight_fetch(workspace, params, [Term(folder, name, 1, sizes[name]) for name in names])
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")
    with full_disk_raises(), published_folder(folder) as temporary:
        registry.fetch(version, temporary, names)
        if not has_its_weights(temporary, version) or _card_digest(temporary) != version.tags.get(WEIGHTS_TAG):
            raise UserError(_TITLE, [Problem(where, "its weights are not those that were registered", other)])
        _refuse_part(temporary, version, params)


def _refuse_part(folder: Path, version: Version, params: Params) -> None:
    """Of a model that is not whole: `export` knows where its base is, checks it, and puts both together."""
    from xtts_finetune.model.header import Header

    if Header.of_file(folder / WEIGHTS) is None:
        return
    what = "holds what was trained alone, and is no base without the one it was trained beside (weights: trained)"
    name = f"{version.name}-{version.version}-whole"
    if (folder / BUNDLE_BASE / VOCODER).is_file():
        other = version.name != params.registry.model_name
        remedy = f"with params.yaml: registry.model_name: {version.name}, " if other else ""
        remedy += f"xtts-finetune export {version.version} {quoted(f'base/{name}')} puts them together"
        remedy += f"; then params.yaml: base: {name}"
    else:  # mini's, which nothing exports
        remedy = "in the commit of its run: params.yaml: registry.weights: whole, dvc repro; then fetch that version"
    raise UserError(_TITLE, [Problem(f"{version.name} version {version.version}", what, remedy)])


def _card_digest(folder: Path) -> object:
    try:
        return read_json(folder / MODEL_CARD)["sha256"]
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Two that fetch would write into one file."""
    busy = Problem(str(workspace.base), "another base fetch is at work here", AGAIN)
    with held_alone(workspace.base_lock, _TITLE, busy):
        yield
