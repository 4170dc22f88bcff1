"""What a report asks for again and again: it is looked at once, and the next report looks again."""

import threading
from collections.abc import Callable

import pytest

from xtts_finetune.core.look import ahead, once_a_look, one_look


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def number(asked: list[int]) -> Callable[[int], int]:
    @once_a_look
    def number(given: int) -> int:
        asked.append(given)
        if given < 0:
            raise ValueError(given)
        return given

    return number


def test_outside_of_a_look_it_is_asked_every_time(number: Callable[[int], int], asked: list[int]) -> None:
    assert [number(1), number(1)] == [1, 1]
    assert asked == [1, 1]


def test_within_one_it_is_asked_once_for_each_argument(number: Callable[[int], int], asked: list[int]) -> None:
    with one_look():
        found = [number(1), number(2), number(1)]
        with one_look():
            found.append(number(2))
    assert (found, asked) == ([1, 2, 1, 2], [1, 2])
    with one_look():
        number(1)
    assert asked == [1, 2, 1], "the next look"


def test_what_it_raises_it_raises_again(number: Callable[[int], int], asked: list[int]) -> None:
    with one_look():
        for _ in range(2):
            with pytest.raises(ValueError, match="-1"):
                number(-1)
    assert asked == [-1]


def test_what_is_begun_ahead_is_waited_for_where_it_is_asked_for() -> None:
    begun, go_on = threading.Event(), threading.Event()

    @once_a_look
    def slow(given: int) -> int:
        begun.set()
        assert go_on.wait(60)
        return given

    with one_look():
        ahead(slow, 3)
        assert begun.wait(60), "it runs beside the rest"
        go_on.set()
        assert slow(3) == 3


def test_what_is_begun_ahead_fails_where_it_is_asked_for(number: Callable[[int], int]) -> None:
    with one_look():
        ahead(number, -1)
    with one_look(), pytest.raises(ValueError, match="-1"):
        ahead(number, -1)
        number(-1)
