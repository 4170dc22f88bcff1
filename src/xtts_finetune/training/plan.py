"""Which clips every step of a phase trains on."""

from functools import lru_cache

from xtts_finetune.data.batches import Budget, Indices, epoch_batches
from xtts_finetune.training.inputs import Inputs
from xtts_finetune.training.place import Place


class Plan:
    """The steps of every epoch, each of up to `accumulate` batches."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._remembered = lru_cache(maxsize=2)(self._drawn)
        self.steps = self._count()  # of all epochs

    def epoch(self, epoch: int) -> list[list[Indices]]:
        """The batches of each of its steps, as indices of clips."""
        return self._remembered(epoch)

    def after(self, place: Place) -> Place | None:
        """The place of the step behind; None behind the last."""
        epoch, epoch_step = place.epoch, place.epoch_step + 1
        if epoch_step == len(self.epoch(epoch)):
            epoch, epoch_step = epoch + 1, 0
        return Place(epoch, epoch_step, place.step + 1) if epoch < self._inputs.phase.epochs else None

    def _drawn(self, epoch: int) -> list[list[Indices]]:
        inputs, phase, train = self._inputs, self._inputs.phase, self._inputs.train
        budget = Budget(train.n_codes + train.n_tokens, phase.batch_tokens) if phase.batch_tokens else None
        batches = epoch_batches(train.samples, phase.batch_size, inputs.seed, inputs.name, epoch, budget)
        return [batches[at : at + phase.accumulate] for at in range(0, len(batches), phase.accumulate)]

    def _count(self) -> int:
        phase = self._inputs.phase
        if phase.batch_tokens is not None:  # how many there are depends on which clips meet
            return sum(len(self._drawn(epoch)) for epoch in range(phase.epochs))
        batches = -(-len(self._inputs.train) // phase.batch_size)
        return -(-batches // phase.accumulate) * phase.epochs
