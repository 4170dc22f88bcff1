"""Which parameters differ from those that were committed, and from the champion's."""

import json
from collections.abc import Mapping
from typing import Any

from xtts_finetune.core.layout import LINEAGE, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.dvcio.history import params_at
from xtts_finetune.report.origin import flat
from xtts_finetune.report.registration import Registration

# What makes no other model: where runs are told of, how many processes share a batch, and when states are saved.
_BESIDE = ("tracking", "launch", "checkpoints", "promotion", "registry", "samples", "notify")


def since_commit(workspace: Workspace, params: Params) -> list[str]:
    """As `train_phase2.lr 0.0003 → 0.0001`; nothing outside of a git repository.

    Whom to tell, and MLflow's address, may hold a password: they are left out.
    """
    return _changes(params_at(workspace, "HEAD"), params.model_dump(mode="json", exclude={"notify", "tracking"}))


def since_champion(workspace: Workspace, params: Params, registration: Registration) -> list[str] | None:
    """The same; None where no champion is known, or its files are not on this machine."""
    weights = registration.champion_weights
    if weights is None:
        return None
    for lineage in sorted(workspace.artifacts.glob(f"models/*/artifacts/artifacts/*/{LINEAGE}")):
        try:
            content = json.loads(lineage.read_bytes())
            if content["model"]["sha256"] == weights:
                theirs, ours = dict(content["params"]), params.model_dump(mode="json")
                return _changes(theirs, {name: ours[name] for name in ours if name not in _BESIDE})
        except (OSError, ValueError, KeyError, TypeError):  # somebody else's, or damaged: it tells nothing
            continue
    return None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = flat(before), flat(now)
    sections = set(before) & set(now)
    return [
        f"{name} {_written(old[name]) if name in old else 'not there'} → {_written(new[name])}"
        for name in new
        if name.partition(".")[0] in sections and old.get(name, _NOTHING) != new[name]
    ]


def _written(value: Any) -> str:
    """As params.yaml has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


_NOTHING = object()
