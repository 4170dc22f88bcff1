"""Work ahead: in order, with what failed in its place, and never far ahead."""

import threading

import pytest

from xtts_finetune.data.ahead import THREADS, work_ahead


def test_results_come_in_order_and_failures_in_their_place() -> None:
    first_may_end = threading.Event()

    def work(number: int) -> int:
        if number == 0 and THREADS > 1:
            assert first_may_end.wait(60)  # until the second is done: it is quicker, and still comes second
        first_may_end.set()
        return 12 // (number - 3)

    futures = list(work_ahead(work, range(6)))
    assert [future.result() for future in futures if not future.exception()] == [-4, -6, -12, 12, 6]
    with pytest.raises(ZeroDivisionError):
        futures[3].result()


def test_it_does_not_run_far_ahead_and_stops_with_its_user() -> None:
    begun: list[int] = []
    results = work_ahead(lambda number: begun.append(number), range(1000))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 2 * THREADS + 1
