"""Work on other threads, a few items ahead of whoever uses the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from xtts_finetune.core.processes import cores

T = TypeVar("T")
R = TypeVar("R")

# Each may be decoding a recording of `audio.MAX_VALUES` samples: more would take that bound's sense away.
THREADS = min(8, cores())


def work_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[Future[R]]:
    """`function` of each item, done or failed, in the order of `items`; at most 2 × THREADS results wait unused.

    Decoding, hashing and a network's products let go of Python's lock, so that they do run beside each other.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * THREADS:
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())
    finally:  # also where the user stops early: what has not begun never will
        pool.shutdown(cancel_futures=True)


def _done(future: Future[R]) -> Future[R]:
    future.exception()  # waits; what it is, the user learns from result()
    return future
