"""What may go: a pure function of what is there and of rules, each of which says what it keeps, and why.

What no rule keeps goes. The rules for states read a listing of paths, so that a store on disk, the states of a
finished phase and those that DVC's cache alone has are decided alike.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from xtts_finetune.core.layout import MANIFEST, checkpoint_step

T = TypeVar("T", bound=Hashable)
Rule = Callable[[Collection[T]], Mapping[T, str]]  # of what is there, what it keeps and why


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """What stays and why, and what goes; both in the order in which they were given."""

    keep: dict[T, str]
    delete: list[T]


def retain(there: Collection[T], *rules: Rule[T]) -> Verdict[T]:
    """Keep what any rule keeps, for the reason of the first that does."""
    keep: dict[T, str] = {}
    for rule in rules:
        keep = {**rule(there), **keep}
    return Verdict({each: keep[each] for each in there if each in keep}, [each for each in there if each not in keep])


def needed(by: Mapping[T, str]) -> Rule[T]:
    """What somebody needs: a commit, an experiment, a registered version."""
    return lambda there: {each: by[each] for each in there if each in by}


@dataclass(frozen=True)
class Stored:
    """A folder called like a state or a best; without its manifest it is neither."""

    name: str
    step: int
    is_best: bool
    is_whole: bool


def stored(paths: Iterable[str]) -> list[Stored]:
    """What a listing of files shows, `step-00000200/model.safetensors`: the oldest first."""
    listed = set(paths)
    folders = []
    for name in {path.split("/")[0] for path in listed if "/" in path}:
        step, best = checkpoint_step(name, "step"), checkpoint_step(name, "best")
        at = best if step is None else step
        if at is not None:
            folders.append(Stored(name, at, step is None, f"{name}/{MANIFEST}" in listed))
    return sorted(folders, key=lambda each: (each.step, each.name))


def newest(count: int, holds: Callable[[Stored], bool] = lambda state: True) -> Rule[Stored]:
    """The newest `count` states that hold. Where none of them does, all: none may go for the sake of a damaged one.

    Args:
        holds: asked of as few as it takes, the newest first, and of none where there are no more than `count`.
    """
    assert count >= 1, "the newest state of a run is its resume point"

    def rule(there: Collection[Stored]) -> dict[Stored, str]:
        states = sorted((each for each in there if each.is_whole and not each.is_best), key=lambda each: -each.step)
        if len(states) <= count:
            return dict.fromkeys(states, "a run resumes here")
        good = list(islice(filter(holds, states), count))
        return dict.fromkeys(good, "a run resumes here") if good else dict.fromkeys(states, "no newer one holds")

    return rule


def best_weights(there: Collection[Stored]) -> dict[Stored, str]:
    """Every best weights."""
    return {each: "the best weights so far" for each in there if each.is_best and each.is_whole}


def latest_best(newest_state: int, counted_on: Collection[int | None]) -> Rule[Stored]:
    """The best weights that no later ones have replaced: those do once a state is there that has passed them.

    Weights later than every state stay, too: what comes before them is replayed, and is no better.

    Args:
        newest_state: its step; -1: there is none.
        counted_on: the steps of weights that a state goes on from; they stay in any case.
    """

    def rule(there: Collection[Stored]) -> dict[Stored, str]:
        bests = best_weights(there)
        steps = [each.step for each in bests]
        kept = {}
        for best, why in bests.items():
            later = [step for step in steps if step > best.step]
            if not any(step <= newest_state or best.step > newest_state for step in later):
                kept[best] = why
            elif best.step in counted_on:
                kept[best] = "a state goes on from them"
        return kept

    return rule


def best_of(step: int) -> Rule[Stored]:
    """The best weights of that step alone."""
    return lambda there: {each: "the best weights" for each in best_weights(there) if each.step == step}
