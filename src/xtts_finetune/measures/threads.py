"""A fixed number of threads: sums are added up in the same order, whatever else runs here."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

THREADS = 2


@contextmanager
def few_threads() -> Iterator[None]:
    """Torch and BLAS use THREADS meanwhile, and afterwards as many as before: silero-vad's import sets torch to one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with threadpool_limits(THREADS, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
