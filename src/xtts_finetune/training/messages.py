"""What a machine's launcher and the processes that it started tell each other, by a store that only they reach."""

import json
import os
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Self

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from xtts_finetune.core.layout import PhaseName
from xtts_finetune.core.meeting_place import listening
from xtts_finetune.core.params import Params
from xtts_finetune.training.meeting import open_store, reached_store

_ADDRESS = "XTTS_FINETUNE_LAUNCHER"  # host:port of the store, for the processes
_WORK = "work"
_OUTCOME = "outcome"
_LEADER = "leader"


@dataclass(frozen=True)
class Outcome:
    """How the leader ended."""

    phase: PhaseName
    code: int  # its exit code


class Messages:
    """Of a machine, for one phase."""

    def __init__(self, store: TCPStore) -> None:
        self._store = store

    @classmethod
    def open(cls) -> Self:
        """For the launcher, whose processes find it by the environment."""
        store = open_store(listening("127.0.0.1:0"))
        os.environ[_ADDRESS] = f"127.0.0.1:{store.port}"
        messages = cls(store)
        messages.leader = Leader.NONE
        return messages

    @classmethod
    def to_launcher(cls) -> Self:
        """For a process; raises DistError where the launcher is gone."""
        return cls(reached_store(os.environ[_ADDRESS]))

    @property
    def work(self) -> tuple[PhaseName, Params]:
        """What the leader is to train."""
        phase, params = json.loads(self._store.get(_WORK))
        return phase, Params.model_validate_json(params)

    @work.setter
    def work(self, work: tuple[PhaseName, Params]) -> None:
        self._store.set(_WORK, json.dumps([work[0], work[1].model_dump_json()]))

    @property
    def outcome(self) -> Outcome | None:
        """None while the phase is trained."""
        return Outcome(*json.loads(self._store.get(_OUTCOME))) if self._store.check([_OUTCOME]) else None

    def report(self, outcome: Outcome) -> None:
        """By the first process; behind it all end with exit code 0, and no round begins."""
        self._store.set(_OUTCOME, json.dumps(astuple(outcome)))

    @property
    def leader(self) -> "Leader":
        """How far it is in this round."""
        return Leader(self._store.get(_LEADER).decode())

    @leader.setter
    def leader(self, stage: "Leader") -> None:
        self._store.set(_LEADER, stage)


class Leader(StrEnum):
    """How far the leader is in a round."""

    NONE = "none"  # there is no leader
    STARTING = "starting"
    READY = "ready"  # has met the others
    ASKED = "asked"  # by the launcher, to make way for a round with another machine
    SAVED = "saved"  # and ends for that
