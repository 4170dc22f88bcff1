"""Phases that are not here, and that `dvc repro` brings back from DVC's cache without training them."""

from collections.abc import Iterator
from typing import Any

from xtts_finetune.checkpoints.lock import trained_now
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.yamlfile import read_yaml
from xtts_finetune.dvcio.cache import Cache, named_dependencies, named_entries, named_params
from xtts_finetune.dvcio.command import changed_stages
from xtts_finetune.dvcio.outs import out_path


def coming_back(workspace: Workspace) -> list[PhaseName]:
    """Phases whose run dvc.lock names and DVC's cache has, of these parameters, sources and recordings.

    None where every phase's model is here. DVC is asked, which takes a second or two, only where its files do not rule
    it out; where it cannot say, there are none, either.
    """
    if all(workspace.model(phase).is_dir() for phase in PHASES):
        return []
    candidates = list(_candidates(workspace, Cache(workspace)))
    if not candidates:
        return []
    try:
        changed = changed_stages(workspace, *(f"train_{phase}" for phase in candidates))
    except UserError:  # a stage is running, say
        return []
    if any(_reruns(workspace, stage, changed) for stage in ("check", "prepare")):
        return []
    reruns = [phase for phase in candidates if _reruns(workspace, f"train_{phase}", changed)]
    return candidates[: candidates.index(reruns[0])] if reruns else candidates


def _candidates(workspace: Workspace, cache: Cache) -> Iterator[PhaseName]:
    """Phases of which all is in the cache, in their order; none after one that must be trained.

    Their reports, too, which only DVC's run-cache puts there.
    """
    entries, params, live = named_entries(workspace), _params(workspace), trained_now(workspace)
    for phase in PHASES:
        if phase in live:
            return
        places = (
            workspace.checkpoints(phase),
            workspace.model(phase),
            workspace.metrics(phase),
            workspace.curve(phase),
        )
        named = [entries[out]["md5"] for place in places if (out := out_path(workspace, place)) in entries]
        objects = cache.below(named)
        if len(named) < len(places) or len(cache.paths(objects)) < len(objects):
            return
        used = named_params(workspace, f"train_{phase}")
        if any(params.get(name) != value for name, value in used.items()):
            return
        yield phase


def _params(workspace: Workspace) -> dict[str, Any]:
    try:
        params = read_yaml(workspace.params, "")
    except (OSError, UserError):
        return {}
    return params if isinstance(params, dict) else {}


def _reruns(workspace: Workspace, stage: str, changed: dict[str, list[Any]]) -> bool:
    """Whether more has changed for a stage than that outs, its own or of those before it, are yet to come back."""
    for change in changed.get(stage, []):
        if not isinstance(change, dict):  # its command
            return True
        if any(how != "deleted" for how in change.get("changed outs", {}).values()):
            return True
        if any(not _is_nothing(workspace, stage, *dep) for dep in change.get("changed deps", {}).items()):
            return True
    return False


def _is_nothing(workspace: Workspace, stage: str, dep: str, how: Any) -> bool:
    if stage == "check":  # whatever stands in params.yaml, it is checked again
        return dep.endswith(workspace.params.name)
    named = named_entries(workspace).get(dep, {}).get("md5")
    return how == "deleted" and named is not None and named_dependencies(workspace, stage).get(dep) == named
