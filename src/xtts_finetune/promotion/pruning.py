"""`xtts-finetune clean --versions keep=N`: registered versions that nobody needs go, and their bytes with them.

MLflow's own deletion takes a version from the list and leaves its files. What stays: the newest, what an alias names,
and every version that was ever champion, which `rollback` may go back to.
"""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_finetune.checkpoints.lock import AGAIN, held_alone
from xtts_finetune.checkpoints.retention import Verdict, needed, retain
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.disk import files_below, freed_bytes, held_bytes
from xtts_finetune.core.disk import shown as shown_bytes
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.promotion.lineage import named_by
from xtts_finetune.promotion.standing import Standing, answered
from xtts_finetune.promotion.wording import log_name
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG, delete_unnamed, delete_version, in_use, logged_models
from xtts_finetune.tracking.receipt import Beside
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import shown

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

_KEEP = re.compile("keep=([0-9]{1,6})")


def prune_lines(workspace: Workspace, wanted: str, yes: bool) -> Iterator[str]:
    """What goes and what stays, and why; with `yes`, it goes.

    Args:
        wanted: as it is typed, `keep=3`.

    Raises:
        UserError: it says no number; the log or MLflow cannot be used; or a promotion is under way.
    """
    keep = _number(wanted)
    params = load_params(workspace.params)
    busy = Problem(log_name(workspace), "a promote or rollback is at work here", AGAIN)
    with held_alone(workspace.promotions_lock, "not now", busy) if yes else nullcontext():
        store = open_store(workspace, params.tracking)
        standing = Standing.read(workspace, store, params.registry.model_name)
        with answered(store, "not all was done", "type it again: it goes on"):
            plan = _Plan.of(standing, keep)
            yield from plan.lines()
            if yes:
                yield from _deleted(standing, plan)
            elif plan.going:
                yield from ["", f"do it: xtts-finetune clean --versions keep={keep} --yes"]


def _number(wanted: str) -> int:
    found = _KEEP.fullmatch(wanted)
    if found:
        return int(found[1])
    what = "does not say how many of the newest versions are to stay"
    raise UserError("this makes no sense", [Problem(f"--versions {wanted}", what, "--versions keep=3, say")])


@dataclass(frozen=True)
class _Plan:
    """Versions by their numbers."""

    standing: Standing
    models: "dict[int, LoggedModel]"  # that have their files
    verdict: Verdict[int]

    @classmethod
    def of(cls, standing: Standing, keep: int) -> "_Plan":
        versions = standing.versions.versions
        by_address = logged_models(standing.store, standing.versions.model_name)
        addresses = {each.version: standing.versions.address(each) for each in versions}
        models = {number: by_address[address] for number, address in addresses.items() if address in by_address}
        lost = dict.fromkeys(addresses.keys() - models.keys(), "its files are not where this project puts them")
        rules = map(needed, (*_rules(standing, keep), lost, _shared(standing, models)))
        return cls(standing, models, retain([each.version for each in versions], *rules))

    @property
    def going(self) -> list[Version]:
        return [version for number in self.verdict.delete if (version := self.standing.left(number))]

    @property
    def bytes(self) -> int:
        """That go with them: here, of files that have no other name; on a server, all that they have."""
        folders = [_folder(self.standing, each) for each in self.going]
        if all(folders):
            return freed_bytes(files_below(*(folder for folder in folders if folder)))
        return sum(_bytes(self.standing, each) for each in self.going)

    def lines(self) -> Iterator[str]:
        """It, for a reader."""
        yield f"versions: frees {shown_bytes(self.bytes)}" if self.going else "versions: nothing to free"
        for version in self.going:
            yield f"  {'goes':>9}  {shown(version)}, {shown_bytes(_bytes(self.standing, version))}"
            named = named_by(self.standing.workspace, version) if version.tags.get("phase") in PHASES else None
            how = f"named by {named.who}: {named.way_back}" if named else "nothing here: no commit names its run"
            yield f"  {'':>9}  makes it again: {how}"
        for number, why in self.verdict.keep.items():
            kept = self.standing.left(number)
            assert kept
            yield f"  {'stays':>9}  {shown(kept)}: {why}"


def _rules(standing: Standing, keep: int) -> Iterator[dict[int, str]]:
    """Which versions stay, and why."""
    versions = standing.versions.versions
    yield {each.version: f"named {' and '.join(each.aliases)}" for each in versions if each.aliases}
    yield dict.fromkeys(standing.ever_champion, "was champion: rollback may go back to it")
    yield {each.version: f"one of the newest {keep}" for each in versions[:keep]}


def _shared(standing: Standing, models: "dict[int, LoggedModel]") -> dict[int, str]:
    """Whose files are another version's, too, of whichever name."""
    users, name = in_use(standing.store), standing.versions.model_name
    found = {}
    for number, model in models.items():
        ways = (model.artifact_location, f"models:/{model.model_id}", f"models:/{name}/{number}")
        others = {who for way in ways for who in users.get(way, [])} - {f"{name} version {number}"}
        if others:
            found[number] = f"its files are those of {', '.join(sorted(others))}, too"
    return found


def _deleted(standing: Standing, plan: _Plan) -> Iterator[str]:
    """Delete them, each only if nobody has named it meanwhile.

    Raises:
        UserError: MLflow does not do it; what was said to be gone is.
    """
    store, versions = standing.store, standing.versions
    told = partial(_note, standing)
    for version in Bar(plan.going, desc="deleting", unit="version", leave=False, disable=not plan.going):
        if store.client.get_model_version(version.name, str(version.version)).aliases:  # as a promotion begins
            yield f"version {version.version} was named meanwhile, and stays"
            continue
        delete_version(store, version.version, plan.models[version.version], told)
        yield f"version {version.version}: gone"
    if left := delete_unnamed(store, versions.model_name, {*in_use(store)}, told):
        yield f"{left} that an earlier clean was killed at: gone"


def _note(standing: Standing, number: int, weights: str) -> None:
    """Have `status` know that what this workspace's last evaluation registered is gone."""
    version = {"name": standing.versions.model_name, "version": number, WEIGHTS_TAG: weights}
    receipt = read_json_object(standing.workspace.registration)
    known = Beside.read(standing.workspace, receipt)
    is_here = known.registry in ("", standing.versions.registry)
    if version.items() <= receipt.items() and is_here:  # else of another run, or of a registry before a server
        replace(known, is_deleted=True).write(standing.workspace, receipt)


def _folder(standing: Standing, version: Version) -> Path | None:
    """All that MLflow keeps of it, where that is a folder of the workspace's own store."""
    model = standing.versions.own_folder(version)
    return model.parents[2] if model else None


def _bytes(standing: Standing, version: Version) -> int:
    """That its files have, whoever else may hold them, too."""
    folder = _folder(standing, version)
    if folder:
        return held_bytes(files_below(folder))
    try:
        return sum(standing.versions.sizes(version).values())
    except UserError:  # they are gone already
        return 0
