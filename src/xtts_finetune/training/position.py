"""Where a run stands."""

import math
from dataclasses import dataclass, field
from typing import Any

from xtts_finetune.training.loss import TokenSums

_OF_FORMAT_1 = ("evaluations_since_best", "evaluations_at_target")  # they follow from the curve


@dataclass
class Position:
    """Where a run stands, as stored in state.json: with weights and optimiser, all that resuming needs."""

    step: int  # optimiser steps since the start of phase 1
    epoch: int = 0  # epochs done
    epoch_step: int = 0  # steps done of the current epoch
    best_step: int = -1
    best_mel_ce: float = math.inf
    best_text_ce: float = math.inf
    best_weights: str = "raw"  # or ema: which of that step's are the best
    skipped: int = 0  # steps in a row whose loss or gradient was not finite
    skipped_steps: int = 0  # all of them
    processes: int = 1  # that trained the last step
    train: TokenSums = field(default_factory=TokenSums)  # since the last evaluation

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Position":
        known = {key: value for key, value in content.items() if key not in _OF_FORMAT_1}
        return cls(**{**known, "train": TokenSums(**content["train"])})
