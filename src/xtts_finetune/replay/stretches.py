"""Which stretches of a training are trained again to prove it, and from where."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xtts_finetune.replay.recorded import Recorded

PARTS = 10  # that a phase has at the least: a short one is cut finer than its saves are apart


@dataclass(frozen=True, order=True)
class Stretch:
    """The steps after `first`, up to `last`."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first + 1} to {self.last}"


def stretches(recorded: Recorded, save_every_steps: int) -> list[Stretch]:
    """A phase's steps in parts as long as its saves are apart, or shorter."""
    start, end = recorded.start_step, recorded.last_step
    length = max(1, min(save_every_steps, -(-(end - start) // PARTS)))
    return [Stretch(first, min(first + length, end)) for first in range(start, end, length)]


def chosen(there: Sequence[Stretch], count: int) -> list[Stretch]:
    """So many of them, by chance, which nobody can foresee."""
    return sorted(random.SystemRandom().sample(there, min(count, len(there))))


def joined(wanted: Iterable[Stretch], starts: Sequence[int]) -> list[Stretch]:
    """What has to be trained for them: each from the newest of `starts` before it; what overlaps is trained once.

    Args:
        starts: steps that can be trained on from, the phase's first among them.
    """
    ways: list[Stretch] = []
    for stretch in sorted(wanted):
        first = max(start for start in starts if start <= stretch.first)
        if ways and first <= ways[-1].last:
            ways[-1] = Stretch(ways[-1].first, max(ways[-1].last, stretch.last))
        else:
            ways.append(Stretch(first, stretch.last))
    return ways
