"""Batches, made ahead on another thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from xtts_finetune.training.packing import MicroBatch


@dataclass(frozen=True)
class Place:
    """Of an optimiser step in a run."""

    epoch: int  # epochs done
    epoch_step: int  # steps done of this one
    step: int  # steps done of all


class Feed:
    """The micro-batches of each step in turn; while one is trained on, the next is made."""

    def __init__(self, make: Callable[[Place], list[MicroBatch]], after: Callable[[Place], Place | None]) -> None:
        """`make`: a step's micro-batches, in pinned memory where there is a GPU; `after`: None behind the last step."""
        self._make = make
        self._after = after
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._ahead: tuple[Place, Future[list[MicroBatch]]] | None = None

    def take(self, place: Place) -> list[MicroBatch]:
        """The micro-batches of the step at `place`; raises what making them raised."""
        ahead, self._ahead = self._ahead, None
        micros = ahead[1].result() if ahead and ahead[0] == place else self._make(place)
        following = self._after(place)
        if following:
            self._ahead = following, self._worker.submit(self._make, following)
        return micros
