"""Where a step stands in a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Of an optimiser step in a run."""

    epoch: int  # epochs done
    epoch_step: int  # steps done of this one
    step: int  # steps done of all
