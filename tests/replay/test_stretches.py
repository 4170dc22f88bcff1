"""Which stretches are drawn, and what has to be trained for them."""

from types import SimpleNamespace
from typing import Any

import pytest

from xtts_finetune.replay.stretches import Stretch, chosen, joined, stretches


def recorded(start: int, last: int) -> Any:
    return SimpleNamespace(start_step=start, last_step=last)


@pytest.mark.parametrize(
    ("start", "last", "save_every", "length", "count"),
    [(0, 1000, 100, 100, 10), (1000, 3050, 100, 100, 21), (0, 30, 100, 3, 10), (6, 9, 2, 1, 3), (4, 4, 5, 1, 0)],
)
def test_they_are_all_steps_each_once(start: int, last: int, save_every: int, length: int, count: int) -> None:
    there = stretches(recorded(start, last), save_every)
    assert len(there) == count
    assert [step for each in there for step in range(each.first, each.last)] == list(range(start, last))
    assert all(each.last - each.first <= length for each in there)


def test_none_is_drawn_twice_and_each_can_be() -> None:
    there = stretches(recorded(0, 100), 10)
    drawn = [chosen(there, 3) for _ in range(300)]
    assert all(len(set(each)) == 3 for each in drawn)
    assert {stretch for each in drawn for stretch in each} == set(there)  # misses one in 10^46 runs
    assert chosen(there, 99) == there


@pytest.mark.parametrize(
    ("wanted", "starts", "ways"),
    [
        ([(0, 2), (8, 10)], [0], [(0, 10)]),
        ([(0, 2), (8, 10)], [0, 6], [(0, 2), (6, 10)]),
        ([(0, 2), (8, 10)], [0, 2], [(0, 10)]),
        ([(6, 8), (8, 10)], [0, 6, 8], [(6, 10)]),
        ([(7, 8)], [0, 8], [(0, 8)]),
    ],
)
def test_each_is_trained_from_the_nearest_start_and_no_step_twice(
    wanted: list[tuple[int, int]], starts: list[int], ways: list[tuple[int, int]]
) -> None:
    assert joined([Stretch(*each) for each in wanted], starts) == [Stretch(*each) for each in ways]
