"""What a phase's curve is told by."""

from dataclasses import dataclass

LEAST = 5  # evaluations, by which a forecast says anything
NOISE = 0.006  # of an evaluation (standard deviation) before any is seen: the split is the same, the weights are not


@dataclass(frozen=True)
class Evaluation:
    """Of a phase.

    Attributes:
        step: in optimiser updates.
        eval: Mel CE on the eval split.
        train: Mel CE of clips to train on, measured as the eval split is, at every evaluation; or, of runs of before,
            the mean of the steps since the evaluation before, of which only the change counts: the first has none.
            nan: not known.
    """

    step: int
    eval: float
    train: float
