"""What one process computes of a phase: its share of every batch, and of the eval split."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xtts_finetune.data.batches import Indices, alike, collate, torch_seed, voice_prompts
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model import xtts
from xtts_finetune.model.forward import set_dropout
from xtts_finetune.training import loss
from xtts_finetune.training.feed import Feed
from xtts_finetune.training.inputs import Inputs
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.optim import build_optimizer, learning_rate
from xtts_finetune.training.packing import MicroBatch, SpecialTokens, Targets, pack
from xtts_finetune.training.place import Place
from xtts_finetune.training.plan import Plan
from xtts_finetune.training.snapshot import optimizer_tensors, restore_optimizer
from xtts_finetune.training.step import Step, is_padding_free
from xtts_finetune.training.team import Order, Task, Team, described, made_room_for


class Evaluated(NamedTuple):
    """What an evaluation gives: of the eval split, and of train clips that are as many and as long."""

    raw: TokenSums
    ema: TokenSums | None  # of the weights' average, where there is one
    train: TokenSums  # of the weights themselves


class Share:
    """The network, its optimiser, and this process's share of the work.

    What is random depends on (seed, phase, step) and (seed, phase, epoch) alone: the clips of a step and their voice
    prompts are the same however many processes share them. Only dropout is drawn by each for itself.
    """

    def __init__(self, inputs: Inputs, team: Team) -> None:
        self.inputs = inputs
        self.team = team
        self.gpt = inputs.gpt
        self.device = inputs.gpt.mel_head.weight.device
        set_dropout(self.gpt, inputs.phase.dropout)
        self.optimizer = build_optimizer(self.gpt, inputs.phase)
        self.conditioning_mel = xtts.build_conditioning_mel(inputs.mel_stats)
        self.plan = Plan(inputs)
        self._special = SpecialTokens.of(self.gpt)
        self._alike = alike(inputs.train, inputs.eval)
        self._step = Step(self.gpt, self.conditioning_mel, self.optimizer, inputs.phase, team)
        self.ema = self._step.ema
        self._feed = Feed(self._micro_batches, self.plan.after)

    # For the leader: all processes take part.

    def begin(self) -> None:
        """Have the others start where this process stands, with the same weights and moments."""
        if self.team.size == 1:
            return
        inputs = self.inputs
        moments = dict(optimizer_tensors(self.gpt, self.optimizer))
        work = {
            "name": inputs.name,
            "phase": inputs.phase.model_dump(),
            "seed": inputs.seed,
            "start_step": inputs.start_step,
            "moments": described(moments),
        }
        self.team.begin(work)
        self._spread(moments)

    def take_step(self, place: Place, may_update: Callable[[], None]) -> tuple[Targets, Tensor]:
        """Take the step at `place`: the mean over its targets, and its figures as `Step` returns them."""
        made = self._feed.take(place)  # what fails here must, before the others wait for this process
        with self.team.ordered(Order(Task.STEP, place)):
            return self._take_step(place, made, may_update)

    def evaluate(self) -> Evaluated:
        """Mel CE and Text CE, without dropout."""
        with self.team.ordered(Order(Task.EVALUATE)):
            return self._evaluate()

    # For all others.

    def follow(self, work: dict[str, Any]) -> int:
        """Do as the leader says, to its end; returns its exit code.

        Args:
            work: as `begin` told.
        """
        for order in self.team.orders():
            match order.task:
                case Task.BEGIN:
                    moments = made_room_for(work["moments"])
                    self._spread(moments)
                    restore_optimizer(self.gpt, self.optimizer, moments)
                case Task.STEP:
                    assert order.place
                    self._take_step(order.place, self._feed.take(order.place), lambda: None)
                case Task.EVALUATE:
                    self._evaluate()
        return order.code

    def _spread(self, moments: dict[str, Tensor]) -> None:
        """Have the leader's weights, their EMA and moments, in the order that all have them in."""
        averages = self.ema.tensors if self.ema else []
        self.team.spread([*self.gpt.state_dict().values(), *averages, *moments.values()])

    def learning_rate(self, step: int) -> float:
        """Of the step behind `step`, counted from phase 1's first."""
        return learning_rate(self.inputs.phase, step - self.inputs.start_step, self.plan.steps)

    def _take_step(
        self, place: Place, made: tuple[list[MicroBatch], Targets], may_update: Callable[[], None]
    ) -> tuple[Targets, Tensor]:
        micros, targets = made
        parts = ("dropout", self.inputs.seed, self.inputs.name, place.step)
        dropout = torch_seed(*parts, self.team.rank) if self.team.rank else torch_seed(*parts)
        return targets, self._step(micros, self.learning_rate(place.step), dropout, may_update)

    def _evaluate(self) -> Evaluated:
        raw, ema = self._measure(self.inputs.eval), None
        if self.ema is not None:
            with self.ema.in_use():
                ema = self._measure(self.inputs.eval)
        return Evaluated(raw, ema, self._measure(self.inputs.train, self._alike))

    def _measure(self, reader: FeatureReader, chosen: Indices | None = None) -> TokenSums:
        share = slice(self.team.rank, None, self.team.size)
        label = "evaluating" if self.team.is_leader else None
        batches = loss.eval_batches(reader, label, leave=False, share=share, chosen=chosen)
        sums = astuple(loss.evaluate(self.gpt, self.conditioning_mel, batches))
        together = torch.tensor(sums, dtype=torch.float64)
        self.team.add_up(together)
        mel, mel_tokens, text, text_tokens = together.tolist()
        return TokenSums(mel, int(mel_tokens), text, int(text_tokens))

    def _micro_batches(self, place: Place) -> tuple[list[MicroBatch], Targets]:
        """This process's part of those of a step, and all targets of the step; on the feed's thread."""
        inputs, reader, phase = self.inputs, self.inputs.train, self.inputs.phase
        parts, targets = list[tuple[Indices, Indices]](), Targets()
        for part, indices in enumerate(self.plan.epoch(place.epoch)[place.epoch_step]):
            prompts = voice_prompts(reader.samples[indices], ("slice", inputs.seed, inputs.name, place.step, part))
            lengths = reader.n_codes[indices], reader.n_tokens[indices]
            parts.append((indices, prompts))
            targets += Targets.of(*lengths, prompts, phase.mask_prompt)
        return [self._micro_batch(indices, prompts, targets) for indices, prompts in parts], targets

    def _micro_batch(self, indices: Indices, prompts: Indices, step: Targets) -> MicroBatch:
        """Of the clips that are this process's; where there is none for it, one that counts for nothing."""
        own = slice(self.team.rank, None, self.team.size)
        is_idle = self.team.rank >= len(indices)
        own = slice(1) if is_idle else own
        batch = collate(self.inputs.train, indices[own], prompts[own])
        padding_free = is_padding_free(self.device, self.inputs.phase)
        micro = pack(batch, self._special, self.inputs.phase.mask_prompt, padding_free, step)
        return (micro.silenced() if is_idle else micro).ready_for(self.device)
