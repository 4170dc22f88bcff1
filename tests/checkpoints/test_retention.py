"""Retention as a truth table."""

import itertools

import pytest

from xtts_finetune.checkpoints.retention import expendable


@pytest.mark.parametrize(
    ("steps", "keep_last", "protected", "gone"),
    [
        ([], 1, (), []),
        ([200], 1, (), []),
        ([200, 400], 1, (), [200]),
        ([200, 400], 2, (), []),
        ([200, 400], 5, (), []),
        ([200, 400, 600, 800], 2, (), [200, 400]),
        ([800, 200, 600, 400], 2, (), [200, 400]),
        ([200, 400, 600], 1, (200,), [400]),
        ([200, 400, 600], 1, (600,), [200, 400]),
        ([200, 400, 600], 1, (200, 400), []),
        ([200, 400], 1, (999,), [200]),
        ([0, 5], 1, (0,), []),
    ],
)
def test_table(steps: list[int], keep_last: int, protected: tuple[int, ...], gone: list[int]) -> None:
    assert expendable(steps, keep_last, protected) == gone


def test_what_always_holds() -> None:
    """The newest stay, as many as asked for; the protected stay; the rest goes."""
    for steps in itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in range(6)):
        for keep_last, protected in itertools.product(range(1, 4), [(), (0,), (1, 3)]):
            gone = expendable(steps, keep_last, protected)
            kept = set(steps) - set(gone)
            newest = set(sorted(steps)[-keep_last:])
            assert kept == newest | (set(steps) & set(protected))
            assert gone == sorted(gone)


def test_the_resume_point_cannot_be_asked_away() -> None:
    with pytest.raises(AssertionError):
        expendable([1, 2], 0, ())
