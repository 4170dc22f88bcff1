"""What MLflow has not got yet: read from disk, and no server is asked."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PhaseName, Workspace
from xtts_finetune.tracking.outbox import Outbox, ended_outboxes, running_outboxes


@dataclass(frozen=True)
class Waiting:
    """A run of which MLflow lacks something, if only its tags or how it ended."""

    key: str
    name: str
    points: int
    registration: bool  # whether its model has yet to be registered


def waiting(workspace: Workspace, live: Collection[PhaseName] = ()) -> list[Waiting]:
    """What `xtts-finetune sync` would deliver, as far as it can be read.

    Args:
        live: phases that are being trained: their trainers deliver by themselves.
    """
    runs = []
    held = {workspace.work(phase) for phase in live}
    running = (folder for _, folder in running_outboxes(workspace) if folder not in held)
    for folder in (*ended_outboxes(workspace), *running):
        with suppress(UserError, FileNotFoundError):  # `damaged` has those that matter; or it was just delivered
            outbox = Outbox.read(folder)
            points, record = len(outbox.outstanding()), outbox.record
            if record.order or not outbox.is_delivered:
                runs.append(Waiting(record.key, record.name, points, record.order is not None))
    return runs


def damaged(workspace: Workspace) -> list[Problem]:
    """The records of ended runs that cannot be read: without them nothing of the run is delivered."""
    problems: list[Problem] = []
    for folder in ended_outboxes(workspace):
        try:
            with suppress(FileNotFoundError):  # just delivered
                Outbox.read(folder)
        except UserError as error:
            problems += error.problems
    return problems
