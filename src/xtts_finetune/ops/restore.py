"""`xtts-finetune restore`: a registered version back into models/, and whether DVC knows it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.lock import RESTORE, models_held, trainers_kept_out
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import full_disk_raises
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, published_folder, read_json, sha256_file
from xtts_finetune.core.layout import MODEL_CARD, PHASES, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.dvcio.cache import listing_object, named_outs
from xtts_finetune.dvcio.history import revisions
from xtts_finetune.dvcio.outs import is_committed, out_path
from xtts_finetune.tracking.connection import TrackingStore, open_store, path_in
from xtts_finetune.tracking.logged_model import MODEL_FOLDER, WEIGHTS_TAG
from xtts_finetune.tracking.registry import Version, versions


def restore_text(workspace: Workspace, wanted: str) -> Iterator[str]:
    """Put a version's weights and card into models/<phase>/, and say what DVC makes of it.

    Args:
        wanted: a version's number, or an alias of it.

    Raises:
        UserError: there is no such version, its files are not what was registered, a trainer or an evaluation is
            at work, or what is in models/<phase>/ is nowhere else.
    """
    params = load_params(workspace.params)
    store = open_store(workspace, params.tracking)
    registry = _Registry(store, params.registry.model_name, versions(store, params.registry.model_name))
    version = registry.find(wanted)
    phase = _phase(version)
    with trainers_kept_out(workspace, RESTORE) as live, models_held(workspace):
        model = workspace.model(phase)
        if phase in live:
            raise UserError("not now", [Problem(str(model), "a trainer is at work here", "wait for it, or stop it")])
        _refuse_the_only_copy(workspace, version, phase, registry)
        with full_disk_raises(), published_folder(model) as folder:
            registry.fetch(version, folder)
    yield f"{out_path(workspace, model)}: {_shown(version)}; every byte as it was registered"
    yield from _what_dvc_says(workspace, phase)


@dataclass(frozen=True)
class _Registry:
    store: TrackingStore
    model_name: str
    versions: list[Version]

    def find(self, wanted: str) -> Version:
        for version in self.versions:
            if wanted == str(version.version) or wanted in version.aliases:
                return version
        known = "".join(f"\n        {_shown(version)}" for version in self.versions)
        what = f"is no version of {self.model_name} and no alias; there is:{known}"
        remedy = "choose one of them"
        if not known:
            what = f"no version of {self.model_name} is registered yet"
            remedy = "dvc repro: its last stage, evaluate, registers the best model"
        raise UserError("no such version", [Problem(f"{self.store.uri}: {wanted}", what, remedy)])

    def fetch(self, version: Version, folder: Path) -> None:
        """Its weights and card into `folder`: as links where the store is this workspace's own, else downloaded.

        Raises:
            UserError: they are gone, not what was registered, or at a path of this machine that is not our own.
        """
        from mlflow.exceptions import MlflowException

        where = f"{version.name} version {version.version}"
        try:
            address = self._address(version)
            here = self._own_folder(address)
            for name in (WEIGHTS, MODEL_CARD):
                if here:
                    link_or_copy((here / name).resolve(), folder / name)
                else:
                    there = self.store.artifact_repository(f"{address}/{MODEL_FOLDER}")
                    there.download_artifacts(name, str(folder))
        except (FileNotFoundError, MlflowException) as error:
            what = f"its files cannot be had: {(str(error).splitlines() or [''])[0][:200]}"
            raise UserError("nothing was restored", [Problem(where, what, "restore another version")]) from error
        registered, actual = version.tags.get(WEIGHTS_TAG), sha256_file(folder / WEIGHTS)
        if not registered == actual == _card(folder).get("sha256"):
            what = f"its weights are not those that were registered: {actual[:12]} for {str(registered)[:12]}"
            raise UserError("nothing was restored", [Problem(where, what, "restore another version")])

    def holds(self, digest: str) -> bool:
        """Whether the workspace's own store has these weights, by every byte: what a tag says is no copy."""
        tagged = [version for version in self.versions if version.tags.get(WEIGHTS_TAG) == digest]
        folders = [folder for version in tagged if (folder := self._own_folder(self._address(version)))]
        return any((folder / WEIGHTS).is_file() and sha256_file(folder / WEIGHTS) == digest for folder in folders)

    def _address(self, version: Version) -> str:
        address: str = self.store.client.get_model_version_download_uri(version.name, str(version.version))
        return address

    def _own_folder(self, address: str) -> Path | None:
        """Where the model's files lie in this workspace's own store; None if the address means any other place."""
        here = path_in(self.store.artifacts, address) if self.store.artifacts else None
        return here / MODEL_FOLDER if here else None


def _phase(version: Version) -> PhaseName:
    phase = version.tags.get("phase")
    if phase not in PHASES:
        what = f"is of no phase that is known here: {phase}"
        raise UserError("nothing was restored", [Problem(_shown(version), what, "restore another version")])
    return phase


def _refuse_the_only_copy(workspace: Workspace, version: Version, phase: PhaseName, registry: _Registry) -> None:
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


def _shown(version: Version) -> str:
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    figures = f", Mel CE {float(version.tags['eval_mel_ce']):.3f}" if "eval_mel_ce" in version.tags else ""
    return f"version {version.version}{aliases}: the best of {version.tags.get('phase')}{figures}"


def _card(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(folder / MODEL_CARD)
    except ValueError:
        return {}
    return content


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
