"""Which run of phase 1 the workspace has: what follows it comes under the same pipeline in MLflow."""

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.checkpoints.parking import record_of
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params


def phase1_key(workspace: Workspace, params: Params) -> str:
    """By what it left; where that was let go, by what the parameters would begin."""
    left = record_of(workspace.checkpoints("phase1"))
    identity = left.identity if left else identity_of(workspace, params, "phase1")
    assert identity, "phase 1 has run"
    return identity.key
