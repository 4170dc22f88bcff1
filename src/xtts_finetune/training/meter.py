"""The figures of steps, kept on the device and read many at a time: every reading waits for it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.step import MEL, NORM, TEXT


@dataclass(frozen=True)
class Taken:
    """What the host knows of a step when it has begun."""

    step: int
    epoch: int
    lr: float
    mel_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class Measured:
    """A step and what came of it."""

    taken: Taken
    sums: TokenSums
    grad_norm: float
    tokens_per_second: float  # the mean over the steps that were read together

    @property
    def is_finite(self) -> bool:
        """Whether it changed anything."""
        return math.isfinite(self.grad_norm + self.sums.mel + self.sums.text)


class Meter:
    """Figures of up to `capacity` steps."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._figures = torch.zeros(capacity, 3, dtype=torch.float64, device=device)
        self._taken: list[Taken] = []
        self._started = 0.0

    def start_step(self) -> None:
        """The clock runs from the first step after a reading on."""
        if not self._taken:
            self._started = time.perf_counter()

    def add(self, taken: Taken, figures: Tensor) -> None:
        self._figures[len(self._taken)].copy_(figures)
        self._taken.append(taken)

    @property
    def is_full(self) -> bool:
        return len(self._taken) == len(self._figures)

    def read(self) -> Iterator[Measured]:
        """What was added since the last reading, in its order; waits for the device."""
        taken, self._taken = self._taken, []
        if not taken:
            return
        figures = self._figures[: len(taken)].tolist()
        tokens = sum(each.mel_tokens + each.text_tokens for each in taken)
        rate = tokens / (time.perf_counter() - self._started)
        for each, row in zip(taken, figures, strict=True):
            sums = TokenSums(row[MEL], each.mel_tokens, row[TEXT], each.text_tokens)
            yield Measured(each, sums, row[NORM], rate)
