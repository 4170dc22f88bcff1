"""Where a run stands."""

import math
from dataclasses import dataclass, field
from typing import Any

from xtts_finetune.training.loss import TokenSums


@dataclass
class Position:
    """Where a run stands, as stored in state.json: with weights and optimiser, all that resuming needs."""

    step: int  # optimiser steps since the start of phase 1
    epoch: int = 0  # epochs done
    epoch_step: int = 0  # steps done of the current epoch
    best_step: int = -1
    best_mel_ce: float = math.inf
    best_text_ce: float = math.inf
    evaluations_since_best: int = 0
    evaluations_at_target: int = 0
    skipped: int = 0  # steps in a row without a finite gradient
    train: TokenSums = field(default_factory=TokenSums)  # since the last evaluation

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Position":
        return cls(**{**content, "train": TokenSums(**content["train"])})
