"""`xtts-finetune restore`: a registered version back into models/, and whether DVC knows it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.lock import RESTORE, models_held, trainers_kept_out
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import full_disk_raises
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import published_folder, read_json, sha256_file
from xtts_finetune.core.layout import MODEL_CARD, PHASES, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.dvcio.cache import listing_object, named_outs
from xtts_finetune.dvcio.history import revisions
from xtts_finetune.dvcio.outs import is_committed, out_path
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.outbox import TRAINED
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions, shown


def restore_text(workspace: Workspace, wanted: str) -> Iterator[str]:
    """Put a version's weights and card into models/<phase>/, and say what DVC makes of it.

    Args:
        wanted: a version's number, or an alias of it.

    Raises:
        UserError: there is no such version, its files are not what was registered, a trainer or an evaluation is
            at work, or what is in models/<phase>/ is nowhere else.
    """
    params = load_params(workspace.params)
    registry = Versions.of(open_store(workspace, params.tracking), params.registry.model_name)
    version = registry.find(wanted, "nothing was restored")
    phase = _phase(version)
    _refuse_put_together(version, version.tags, out_path(workspace, workspace.model(phase)))
    with trainers_kept_out(workspace, RESTORE) as live, models_held(workspace):
        model = workspace.model(phase)
        if phase in live:
            raise UserError("not now", [Problem(str(model), "a trainer is at work here", "wait for it, or stop it")])
        _refuse_the_only_copy(workspace, version, phase, registry)
        with full_disk_raises(), published_folder(model) as folder:
            _fetch(registry, version, folder)
            _refuse_put_together(version, _card(folder), out_path(workspace, model))
    yield f"{out_path(workspace, model)}: {shown(version)}; every byte as it was registered"
    yield from _what_dvc_says(workspace, phase)


def _fetch(registry: Versions, version: Version, folder: Path) -> None:
    """Its weights and card.

    Raises:
        UserError: they are gone, not what was registered, or at a path of this machine that is not our own.
    """
    registry.fetch(version, folder)
    registered, actual = version.tags.get(WEIGHTS_TAG), sha256_file(folder / WEIGHTS)
    if not registered == actual == _card(folder).get("sha256"):
        what = f"its weights are not those that were registered: {actual[:12]} for {str(registered)[:12]}"
        where = f"{version.name} version {version.version}"
        raise UserError("nothing was restored", [Problem(where, what, "restore another version")])


def _refuse_put_together(version: Version, told: Mapping[str, Any], model: str) -> None:
    """Raise UserError where a phase's own model is only what was trained, and the version has the whole network.

    Args:
        told: its tags, or its card, which nobody can edit.
    """
    if TRAINED in told:
        what = f"has the whole network, where {model} holds what was trained alone: no phase goes on from it"
        start = f"xtts-finetune base fetch models:/{version.name}/{version.version}"
        remedy = f"dvc checkout {model}, in the commit of its run; to start from the version: {start}"
        raise UserError("nothing was restored", [Problem(shown(version), what, remedy)])


def _phase(version: Version) -> PhaseName:
    phase = version.tags.get("phase")
    if phase not in PHASES:
        what = f"is of no phase that is known here: {phase!r}"
        raise UserError("nothing was restored", [Problem(shown(version), what, "restore another version")])
    return phase


def _refuse_the_only_copy(workspace: Workspace, version: Version, phase: PhaseName, registry: Versions) -> None:
    """Unless DVC's cache has what is in models/<phase>/, by dvc.lock, or the workspace's own store the same weights.

    Or it is the version itself that lies here: then its bytes are read once more before they take their own place.
    """
    weights = workspace.model(phase) / WEIGHTS
    if not weights.is_file() or is_committed(workspace, phase):
        return
    digest = sha256_file(weights)
    if version.tags.get(WEIGHTS_TAG) == digest or registry.holds(digest):
        return
    model = out_path(workspace, workspace.model(phase))
    move = f"mv {quoted(model)} {quoted(f'{model}.mine')}"
    remedy = f"keep it first (dvc commit -f train_{phase}), or move it away: {move}"
    what = "neither DVC's cache nor mlruns/ has this model: here may be its only copy"
    raise UserError("nothing was restored", [Problem(model, what, remedy)])


def _what_dvc_says(workspace: Workspace, phase: PhaseName) -> Iterator[str]:
    """Whether dvc.lock names this model; else what does, and what to type to make it so."""
    folder = workspace.model(phase)
    out = out_path(workspace, folder)
    oid = listing_object({file.name: _md5(file) for file in folder.iterdir()})
    if named_outs(workspace).get(out) == oid:
        yield "dvc.lock names it: DVC agrees"
        return
    for revision in revisions(workspace):
        if revision.outs.get(out) == oid:
            yield f"dvc.lock names another model, so that dvc repro would train {phase} again in its place."
            yield f"This one is named by {revision.who}. To go back to that run: {revision.way_back}"
            return
    yield f"Neither dvc.lock nor a commit names it: dvc repro would train {phase} again in its place."
    yield f"To keep it as this workspace's {phase}, with params.yaml as it is now: dvc commit -f train_{phase}"


def _card(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(folder / MODEL_CARD)
    except ValueError:
        return {}
    return content


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
