"""Retention as a truth table."""

import itertools

import pytest

from xtts_finetune.checkpoints.retention import Stored, best_weights, latest_best, needed, newest, retain, stored
from xtts_finetune.core.layout import checkpoint_name


def a_store(steps: list[int], bests: tuple[int, ...] = ()) -> list[Stored]:
    names = [checkpoint_name("step", step) for step in steps] + [checkpoint_name("best", step) for step in bests]
    return stored(f"{name}/{file}" for name in names for file in ("model.safetensors", "manifest.json"))


def steps(states: list[Stored]) -> list[int]:
    return [state.step for state in states]


@pytest.mark.parametrize(
    ("there", "keep_last", "gone"),
    [
        ([], 1, []),
        ([200], 1, []),
        ([200, 400], 1, [200]),
        ([200, 400], 2, []),
        ([200, 400], 5, []),
        ([200, 400, 600, 800], 2, [200, 400]),
        ([800, 200, 600, 400], 2, [200, 400]),
        ([0, 5], 1, [0]),
    ],
)
def test_the_newest(there: list[int], keep_last: int, gone: list[int]) -> None:
    assert steps(retain(a_store(there), newest(keep_last)).delete) == gone


def test_what_always_holds() -> None:
    """The newest stay, as many as asked for; what somebody needs and the best stay; the rest goes, oldest first."""
    for there in itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in range(6)):
        for keep_last, protected in itertools.product(range(1, 4), [set[int](), {0}, {1, 3}]):
            states = a_store(list(there), bests=(1,))
            needs = {state: "a tag names it" for state in states if state.step in protected and not state.is_best}
            verdict = retain(states, newest(keep_last), needed(needs), best_weights)
            expected = set(sorted(there)[-keep_last:]) | (set(there) & protected)
            assert {state.step for state in verdict.keep if not state.is_best} == expected
            assert [state.step for state in verdict.keep if state.is_best] == [1]
            assert set(verdict.keep) | set(verdict.delete) == set(states)
            assert steps(verdict.delete) == sorted(set(there) - expected)


def test_the_first_rule_says_why() -> None:
    [state] = states = a_store([200])
    assert retain(states, needed({state: "a tag names it"}), newest(1)).keep == {state: "a tag names it"}
    assert retain(states, newest(1), needed({state: "a tag names it"})).keep == {state: "a run resumes here"}


@pytest.mark.parametrize(
    ("damaged", "keep_last", "gone"),
    [
        ({600}, 1, [200, 600]),
        ({600}, 2, [600]),
        ({400, 600}, 1, [400, 600]),
        ({200, 400, 600}, 1, []),
        (set(), 1, [200, 400]),
    ],
)
def test_only_one_that_holds_lets_others_go(damaged: set[int], keep_last: int, gone: list[int]) -> None:
    rule = newest(keep_last, holds=lambda state: state.step not in damaged)
    assert steps(retain(a_store([200, 400, 600]), rule).delete) == gone


def test_no_more_are_read_than_it_takes() -> None:
    """Each is gigabytes."""
    read: list[int] = []
    states = a_store([200, 400, 600])
    retain(states, newest(1, holds=lambda state: bool(read.append(state.step)) or True))
    retain(states, newest(3, holds=lambda state: bool(read.append(state.step)) or True))
    assert read == [600]


def test_a_folder_without_its_manifest_is_nothing() -> None:
    listing = ["step-00000200/manifest.json", "step-00000400/model.safetensors", "best-00000400/model.safetensors"]
    listing += ["best-00000200/manifest.json", "DONE", "notes/manifest.json"]
    verdict = retain(stored(listing), newest(1), best_weights)
    assert [each.name for each in verdict.keep] == ["best-00000200", "step-00000200"]
    assert [each.name for each in verdict.delete] == ["best-00000400", "step-00000400"]


def test_the_resume_point_cannot_be_asked_away() -> None:
    with pytest.raises(AssertionError):
        newest(0)


@pytest.mark.parametrize(
    ("states", "bests", "counted_on", "kept"),
    [
        ([], [], set[int](), []),
        ([2], [0], {0}, [0]),
        ([4, 6], [0, 3], {3}, [3]),
        ([2, 3], [0, 3], {0, 3}, [0, 3]),
        ([2], [0, 3], {0}, [0, 3]),  # 3 had no room for its state
        ([2], [0, 2, 3], {2}, [2, 3]),
        ([2], [0, 3, 5], {0}, [0, 5]),
        ([], [0, 3], set[int](), [3]),
    ],
)
def test_a_best_goes_when_a_later_one_has_replaced_it(
    states: list[int], bests: list[int], counted_on: set[int | None], kept: list[int]
) -> None:
    there = [each for each in a_store(states, tuple(bests)) if each.is_best]
    rule = latest_best(max(states, default=-1), counted_on)
    assert steps(list(retain(there, rule).keep)) == kept
