"""Batches, made ahead on another thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from xtts_finetune.training.place import Place

T = TypeVar("T")


class Feed(Generic[T]):
    """What each step in turn is trained on; while one is, that of the next is made."""

    def __init__(self, make: Callable[[Place], T], after: Callable[[Place], Place | None]) -> None:
        """`make`: for a step, in pinned memory where there is a GPU; `after`: None behind the last step."""
        self._make = make
        self._after = after
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._ahead: tuple[Place, Future[T]] | None = None

    def take(self, place: Place) -> T:
        """What was made for the step at `place`; raises what making it raised."""
        ahead, self._ahead = self._ahead, None
        made = ahead[1].result() if ahead and ahead[0] == place else self._make(place)
        following = self._after(place)
        if following:
            self._ahead = following, self._worker.submit(self._make, following)
        return made
