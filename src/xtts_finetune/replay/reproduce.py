"""`xtts-finetune reproduce`: how a registered version comes about again, and a proof by sample that it does."""

import itertools
from collections.abc import Iterator

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.dvcio.history import Revision, params_at, short_commit
from xtts_finetune.promotion.lineage import TITLE, lies_here, named_by, phase_of, trained_weights
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import Versions, shown

_STRETCHES = 4  # of a proof, as it is offered


def reproduce_lines(workspace: Workspace, wanted: str, check: int | None) -> Iterator[str]:
    """The commands by which a version's run comes back, or is trained anew; or the proof of `check` stretches of it.

    Args:
        wanted: a version's number, or an alias of it.
        check: how many stretches of its training are trained again here; None: none.

    Raises:
        UserError: there is no such version; its run does not lie here, of which a proof is wanted; or the training
            does not repeat.
    """
    params = load_params(workspace.params)
    registry = Versions.of(open_store(workspace, params.tracking), params.registry.model_name)
    version = registry.find(wanted, "nothing can be reproduced")
    revision = named_by(workspace, version)
    yield f"{shown(version)}; weights {trained_weights(version)}"
    if check is None:
        yield from _commands(workspace, version, revision)
    elif lies_here(workspace, version):
        from xtts_finetune.replay.proof import proof_lines  # loads torch

        yield from proof_lines(workspace, params, version, check)
    else:
        raise _elsewhere(workspace, version, revision)


def _commands(workspace: Workspace, version: Version, revision: Revision | None) -> Iterator[str]:
    if revision is None:
        yield from _unnamed(version)
        return
    short, phase = short_commit(workspace, revision.commit), phase_of(version)
    yield f"its run is named by {revision.who}"
    if version.tags.get("git_dirty") == "true":
        yield "it was trained with changes that were not committed then: whether the commit has them, the proof tells"
    yield from ["", "to have it here as it was, without training:"]
    commands = revision.way_back.split(" && ")
    yield from (f"  {command}" for command in commands)
    if "git stash" in commands:
        yield "what is edited here is put away by git stash; where it saved anything, git stash pop brings that back"
    elif commands[0].startswith("git checkout"):
        yield "where git refuses, as something is edited here: git stash first"
        yield "to come back: git checkout - && dvc checkout"
    sample = f"{_STRETCHES} random stretches of its training"
    yield from ["", f"to have a proof then, by {sample}, that it comes of that data and those parameters:"]
    if lines := [*_of_another_registry(workspace, revision.commit)]:
        yield "params.yaml is of another registry there: set it as it is here first, in which the version is"
        yield from lines
    yield f"  xtts-finetune reproduce {version.version} --check {_STRETCHES}"
    yield from ["", "to train all of it again, in a folder beside this one:"]
    place = _free(workspace)
    yield f"  git worktree add --detach {place} {short}"
    yield f"  dvc get . data --rev {short} --out {place}/data"
    if (base := version.tags.get("base", "mini")) != "mini":
        yield f"  put the base {quoted(base)} there, as it is here: docs/bases.md"
    yield f"  cd {place}"
    yield "  make setup"
    yield "  dvc repro"
    yield f"  sha256sum models/{phase}/{WEIGHTS}"
    yield f"which on the same kind of machine says {trained_weights(version)}"


def _of_another_registry(workspace: Workspace, commit: str) -> Iterator[str]:
    """Lines of params.yaml by which the version is looked up, where the commit has others."""
    params, there = load_params(workspace.params), params_at(workspace, commit)
    for section, name, here in (
        ("tracking", "uri", params.tracking.uri),
        ("registry", "model_name", params.registry.model_name),
    ):
        settings = there.get(section)
        if isinstance(settings, dict) and settings.get(name) != here:
            yield f"  {section}.{name}: {'null' if here is None else quoted(here)}"


def _free(workspace: Workspace) -> str:
    """A folder beside this one that is not there yet."""
    names = itertools.chain(["again"], (f"again-{number}" for number in itertools.count(2)))
    return next(f"../{name}" for name in names if not (workspace.root.resolve().parent / name).exists())


def _unnamed(version: Version) -> Iterator[str]:
    commit, is_dirty = version.tags.get("git_commit"), version.tags.get("git_dirty") == "true"
    yield "no commit, branch, tag, stash or experiment here names its run, as far as DVC's cache tells (dvc fetch)"
    if commit:
        changed = ", with changes that were not committed" if is_dirty else ""
        yield f"it was trained at commit {commit[:9]}{changed}; its parameters stand on its page in MLflow"


def _elsewhere(workspace: Workspace, version: Version, revision: Revision | None) -> UserError:
    place = str(workspace.model(phase_of(version)))
    if revision is None:
        remedy = f"bring its run back first, from a remote: dvc fetch; see: xtts-finetune reproduce {version.version}"
    else:
        remedy = f"bring its run back first: {revision.way_back}"
    return UserError(TITLE, [Problem(place, "has another model, or none", remedy)])
