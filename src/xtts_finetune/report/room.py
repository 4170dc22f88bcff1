"""The disk: what is free, what this project holds, what can go, and what the next phase needs."""

from collections import Counter
from typing import Literal

from xtts_finetune.core.disk import free_bytes
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.ahead import unfinished
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.diskspace.holdings import holdings
from xtts_finetune.diskspace.stage_peaks import evaluate_peak
from xtts_finetune.diskspace.survey import ways_to_make_room
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.report.content import Disk, Way


def room(
    workspace: Workspace, params: Params | None, without: list[PhaseName], is_to_be_evaluated: bool = False
) -> Disk:
    """What there is to say of the disk.

    Args:
        params: None: params.yaml cannot be read.
        without: phases that need no room any more, whatever dvc.lock says.
        is_to_be_evaluated: where no phase is left to be trained.

    Raises:
        UserError: DVC's files or configuration cannot be read, or git cannot say what it names.
    """
    cache = Cache(workspace)
    held = Counter[str]()
    for parts in holdings(workspace, cache).values():
        held.update({part: size for part, size in parts.items() if size})
    ahead = [phase for phase in unfinished(workspace, params) if phase not in without] if params else []
    next_stage: PhaseName | Literal["evaluate"] | None = ahead[0] if ahead else None
    demands = Budget(workspace, params, cache).peak(ahead[0]) if ahead and params else []
    if params and not ahead and is_to_be_evaluated:
        next_stage, demands = "evaluate", evaluate_peak(Budget(workspace, params, cache))
    worst = max(demands, key=lambda demand: demand.missing, default=None)
    is_full = worst is not None and worst.missing > 0
    needed = worst.needed if worst and is_full else sum(demand.needed for demand in demands)
    return Disk(
        free_bytes=free_bytes(workspace.work(PHASES[0])),
        held=dict(held),
        ways=[Way(command=way.request.command, frees_bytes=way.bytes) for way in ways_to_make_room(workspace)],
        next_stage=next_stage,
        needed_bytes=needed if demands else None,
        missing_bytes=worst.missing if worst else 0,
        full_disk=str(worst.disk) if worst and is_full else None,
    )
