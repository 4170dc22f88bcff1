"""A phase under way: the verbs that the loop is written in.

What is random depends on (seed, phase, step) and (seed, phase, epoch) alone, so that a run stopped anywhere and
run again ends in the same weights, bit for bit.
"""

import math
import time
from copy import deepcopy
from dataclasses import replace
from typing import Protocol

import torch
from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.stopping import Ending, ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.constants import MEL_WEIGHT, TEXT_WEIGHT
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.data.batches import Batch, Indices, collate, epoch_batches, rng, torch_seed
from xtts_finetune.model import xtts
from xtts_finetune.tracking.curve import Curve, stored_rows
from xtts_finetune.tracking.outbox import logged
from xtts_finetune.training import loss
from xtts_finetune.training.inputs import Inputs
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.optim import build_optimizer, learning_rate
from xtts_finetune.training.position import Position
from xtts_finetune.training.saving import Saver
from xtts_finetune.training.snapshot import Snapshot, load_tensors

MAX_SKIPPED = 5  # steps in a row whose loss or gradient is not finite
SKIPPED = "train/skipped_steps"  # so far, in the rows of those that are


class Tracker(Protocol):
    """Where metrics go while the loop runs; must not make it wait."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...


class Run:
    """A phase under way."""

    def __init__(
        self,
        inputs: Inputs,
        record: Record,
        store: CheckpointStore,
        curve: Curve,
        tracker: Tracker,
        save_every_steps: int,
    ) -> None:
        self.inputs = inputs
        self.phase = inputs.phase
        self.store = store
        self.curve = curve
        self.tracker = tracker
        self.save_every_steps = save_every_steps
        self.gpt = inputs.gpt
        self.device = inputs.gpt.mel_head.weight.device
        self.optimizer = build_optimizer(self.gpt, self.phase)
        self.conditioning_mel = xtts.build_conditioning_mel(inputs.mel_stats)
        batches = -(-len(inputs.train) // self.phase.batch_size)
        self.steps_per_epoch = -(-batches // self.phase.accumulate)
        self.steps = self.steps_per_epoch * self.phase.epochs
        self.position = Position(inputs.start_step)
        self.end: Ending | None = None  # once an evaluation is the last
        self._saver = Saver(store, Snapshot(self.gpt, self.optimizer), record, self._log_at)
        self._plan: tuple[int, list[list[Indices]]] = (-1, [])

    # The verbs of fit().

    def resume(self, state: Checkpoint | None) -> bool:
        """Go back to `state`, the newest that verifies; False if there is none and the run starts from its beginning.

        Raises:
            UserError: the state lacks tensors that this code needs, or has others.
        """
        if state is None:
            self.store.discard_newer(-1)
            self.store.with_room(lambda: self.curve.resume(-1, []))
            return False
        load_tensors(state.folder, self.gpt, self.optimizer, state.state.get("format", 1))
        self.store.discard_newer(state.step)
        self.position = Position.from_json(state.state["position"])
        assert self.position.step >= self.inputs.start_step, "a run that started elsewhere is another one"
        if self.position.best_step == state.step:  # the kill may have come between the two
            self.store.with_room(lambda: self.store.publish_best(state))
        self.store.with_room(lambda: self.curve.resume(state.step, stored_rows(state.folder)))
        self.end = ending(self.curve.rows, self.phase)
        for row in self.curve.rows:  # what a kill or a dead server kept from it; the rest it knows
            self.tracker.log(row["step"], logged(row))
        tqdm.write(f"resuming {self.inputs.name} after step {state.step}")
        return True

    def take_step(self) -> None:
        """One optimiser step over `accumulate` batches, whose loss is the true mean over all their tokens."""
        started = time.perf_counter()
        position, seed, name = self.position, self.inputs.seed, self.inputs.name
        batches = [self._train_batch(indices, i) for i, indices in enumerate(self._epoch()[position.epoch_step])]
        torch.manual_seed(torch_seed("dropout", seed, name, position.step))
        lr = learning_rate(self.phase, position.step - self.inputs.start_step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        before = replace(position.train)
        sums = self._accumulate(batches)
        norm = torch.nn.utils.clip_grad_norm_(self.gpt.parameters(), self.phase.grad_clip).item()
        is_finite = math.isfinite(norm) and math.isfinite(sums.loss)
        if is_finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        position.step += 1
        position.epoch_step += 1
        rate = (sums.mel_tokens + sums.text_tokens) / (time.perf_counter() - started)
        row = {**sums.metrics("train"), "train/lr": lr, "train/grad_norm": norm, "train/tokens_per_second": rate}
        if is_finite:
            position.skipped = 0
        else:
            position.train = before  # what is not finite would be the epoch's mean, too
            row[SKIPPED] = self._count_skipped()
        self._log(row)
        self._refuse_divergence()

    def end_epoch(self) -> None:
        self.position.epoch, self.position.epoch_step = self.position.epoch + 1, 0

    def evaluate(self) -> None:
        """Mel CE and Text CE of the whole eval split; remembers the best."""
        position, means = self.position, self.position.train
        result = loss.evaluate(
            self.gpt, self.conditioning_mel, loss.eval_batches(self.inputs.eval, "evaluating", leave=False)
        )
        row = result.metrics("eval")
        if means.mel_tokens:
            row |= {
                "mean/mel_ce": means.mel_ce,
                "mean/text_ce": means.text_ce,
                "lr": self.optimizer.param_groups[0]["lr"],
            }
        self._log(row)
        position.train = TokenSums()
        if result.mel_ce < position.best_mel_ce:
            position.best_step = position.step
            position.best_mel_ce, position.best_text_ce = result.mel_ce, result.text_ce
        self.end = ending(self.curve.rows, self.phase)

    def save(self) -> None:
        """Begin to publish a state to resume from, and the best weights if these are they."""
        self._saver.start(deepcopy(self.position), list(self.curve.rows))

    def finish_saving(self) -> None:
        """Wait until the last save is safe on disk.

        Raises:
            DiskFull: not even the weights of the best have room.
        """
        self._saver.finish()

    @property
    def resume_point(self) -> str:
        """Where the next start goes on from, and why not from here."""
        name, step, states = self.inputs.name, self.position.step, self.store.states()
        if not states:
            return f"the disk had no room for any state of {name}: it starts from its beginning"
        saved = f"{name} is saved at step {states[-1].step}"
        return saved if states[-1].step == step else f"{saved}; the disk had no room for step {step}"

    @property
    def at_epoch_end(self) -> bool:
        return self.position.epoch_step == self.steps_per_epoch

    @property
    def should_save(self) -> bool:
        return self.position.step % self.save_every_steps == 0

    # Their parts.

    def _epoch(self) -> list[list[Indices]]:
        """The batches of the current epoch, `accumulate` of them a step."""
        epoch, size = self.position.epoch, self.phase.accumulate
        if self._plan[0] != epoch:
            batches = epoch_batches(
                self.inputs.train.samples, self.phase.batch_size, self.inputs.seed, self.inputs.name, epoch
            )
            self._plan = epoch, [batches[at : at + size] for at in range(0, len(batches), size)]
        return self._plan[1]

    def _train_batch(self, indices: Indices, part: int) -> Batch:
        place = ("slice", self.inputs.seed, self.inputs.name, self.position.step, part)
        return collate(self.inputs.train, indices, [rng(*place, row) for row in range(len(indices))])

    def _accumulate(self, batches: list[Batch]) -> TokenSums:
        """Gradients of the mean loss over all tokens of `batches`."""
        stop, mask = self.gpt.stop_audio_token, self.phase.mask_prompt
        aims = [loss.targets_of(batch, stop, mask) for batch in batches]
        mel_tokens, text_tokens = sum(aim.mel_tokens for aim in aims), sum(aim.text_tokens for aim in aims)
        sums = TokenSums()
        for batch, aim in zip(batches, aims, strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.phase.precision == "bf16"):
                batch_sums = loss.losses(self.gpt, self.conditioning_mel, batch, aim)
            mean = TEXT_WEIGHT * batch_sums.text / text_tokens + MEL_WEIGHT * batch_sums.mel / mel_tokens
            mean.backward()
            sums.add(batch_sums)
            self.position.train.add(batch_sums)
        return sums

    def _log(self, row: dict[str, float]) -> None:
        self._log_at(self.position, row)

    def _log_at(self, position: Position, row: dict[str, float]) -> None:
        self.curve.append({"step": position.step, "epoch": position.epoch, **row})
        self.tracker.log(position.step, logged(row))

    def _count_skipped(self) -> float:
        position = self.position
        position.skipped, position.skipped_steps = position.skipped + 1, position.skipped_steps + 1
        if position.skipped_steps == 1:
            tqdm.write(f"step {position.step}: loss or gradient is not finite; it is skipped, and counted in {SKIPPED}")
        return float(position.skipped_steps)

    def _refuse_divergence(self) -> None:
        if self.position.skipped < MAX_SKIPPED:
            return
        self.finish_saving()
        name = self.inputs.name
        what = f"loss or gradient was not finite in {MAX_SKIPPED} steps in a row, up to step {self.position.step}"
        remedy = (
            f"lower train_{name}.lr, raise warmup_steps, or use precision: fp32. dvc repro then starts {name} from its "
            "beginning; what was trained is kept beside it, and goes on when the value is set back"
        )
        raise UserError("training diverged", [Problem(f"train_{self.inputs.name}", what, remedy)])
