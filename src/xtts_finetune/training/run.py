"""A phase under way: the verbs that the loop is written in, and what its leader alone knows: how far it is.

A run stopped anywhere and run again ends in the same weights, bit for bit.
"""

from copy import deepcopy
from typing import Protocol

from tqdm import tqdm

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.checkpoints.stopping import Ending, ending
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.tracking.curve import Curve, Row, stored_rows
from xtts_finetune.tracking.outbox import logged
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.meter import Measured, Meter, Taken
from xtts_finetune.training.place import Place
from xtts_finetune.training.position import Position
from xtts_finetune.training.saving import Saver
from xtts_finetune.training.share import Share
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
        share: Share,
        record: Record,
        store: CheckpointStore,
        curve: Curve,
        tracker: Tracker,
        save_every_steps: int,
        log_every_steps: int,
    ) -> None:
        self.share = share
        self.inputs = share.inputs
        self.phase = share.inputs.phase
        self.store = store
        self.curve = curve
        self.tracker = tracker
        self.save_every_steps = save_every_steps
        self.gpt = share.gpt
        self.optimizer = share.optimizer
        self.steps = share.plan.steps
        self.position = Position(self.inputs.start_step, processes=share.team.size)
        self.end: Ending | None = None  # once an evaluation is the last
        self.is_whole = True  # weights and moments are those of `position`: no update is under way
        self.last_measured: Row | None = None  # figures of the newest step that were read
        self.last_evaluated: Row | None = None  # those of the newest evaluation in this process
        self._meter = Meter(log_every_steps, share.device)
        self._snapshot = Snapshot(self.gpt, self.optimizer, share.ema, self.inputs.header)
        self._saver = Saver(store, self._snapshot, record, self._log_at)

    # The verbs of fit().

    def resume(self, state: Checkpoint | None) -> bool:
        """Go back to `state`, the newest that verifies; False if there is none and the run starts from its beginning.

        Raises:
            UserError: the state lacks tensors that this code needs, or has others.
        """
        if state is None:
            self.store.discard_newer(-1)
            self.store.with_room(lambda: self.curve.resume(-1, []))
        else:
            self._go_back_to(state)
        self.share.begin()
        return state is not None

    def _go_back_to(self, state: Checkpoint) -> None:
        load_tensors(state.folder, self.gpt, self.optimizer, self.share.ema, state.state.get("format", 1))
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
        before, self.position.processes = self.position.processes, self.share.team.size
        if before != self.position.processes:
            now = self.position.processes
            tqdm.write(f"processes before: {before}, now: {now}; the steps are the same, up to rounding and dropout")

    def take_step(self) -> None:
        """One optimiser step over `accumulate` micro-batches, whose loss is the true mean over all their tokens.

        On a GPU it is only begun: what came of it is read every `log_every_steps`.
        """
        self._meter.start_step()
        position = self.position
        place = Place(position.epoch, position.epoch_step, position.step)
        targets, figures = self.share.take_step(place, self._before_update)
        position.step += 1
        position.epoch_step += 1
        self.is_whole = True
        lr = self.share.learning_rate(place.step)
        self._meter.add(Taken(position.step, position.epoch, lr, targets.mel, targets.text), figures)
        if self._meter.is_full:
            self.read_figures()

    def read_figures(self) -> None:
        """Wait for the steps taken, and log what came of each.

        Raises:
            UserError: the run diverges.
        """
        for measured in self._meter.read():
            self._log_step(measured)
            self._refuse_divergence(measured.taken.step)

    def end_epoch(self) -> None:
        self.position.epoch, self.position.epoch_step = self.position.epoch + 1, 0

    def evaluate(self) -> None:
        """Mel CE and Text CE of the whole eval split, also of the EMA, and of train clips; remembers the best."""
        self.read_figures()
        position, means = self.position, self.position.train
        raw, ema, train = self.share.evaluate()
        row = raw.metrics("eval") | (ema.metrics("eval_ema") if ema else {}) | train.metrics("eval_train")
        if means.mel_tokens:
            row |= {
                "mean/mel_ce": means.mel_ce,
                "mean/text_ce": means.text_ce,
                "lr": self.share.learning_rate(position.step - 1),
            }
        self.last_evaluated = {"step": position.step, "epoch": position.epoch, **row}
        self._log(row)
        position.train = TokenSums()
        for weights, result in ("raw", raw), ("ema", ema):
            if result and result.mel_ce < position.best_mel_ce:
                position.best_step, position.best_weights = position.step, weights
                position.best_mel_ce, position.best_text_ce = result.mel_ce, result.text_ce
        self.end = ending(self.curve.rows, self.phase)

    def save(self) -> None:
        """Begin to publish a state to resume from, and the best weights if these are they."""
        self.read_figures()
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
    def is_saved(self) -> bool:
        """Whether a state of this step is on the disk, when saving is finished."""
        states = self.store.states()
        return bool(states) and states[-1].step == self.position.step

    @property
    def at_epoch_end(self) -> bool:
        return self.position.epoch_step == len(self.share.plan.epoch(self.position.epoch))

    @property
    def should_evaluate(self) -> bool:
        """Behind a step: at the end of its epoch, and between as often as `evaluate_every_steps` says."""
        every = self.phase.evaluate_every_steps
        return self.position.epoch_step == 0 or (every is not None and self.position.step % every == 0)

    @property
    def should_save(self) -> bool:
        return self.position.step % self.save_every_steps == 0

    # Their parts.

    def _before_update(self) -> None:
        self._snapshot.before_update()
        self.is_whole = False

    def _log_step(self, measured: Measured) -> None:
        position, sums, taken = self.position, measured.sums, measured.taken
        row = {
            **sums.metrics("train"),
            "train/lr": taken.lr,
            "train/grad_norm": measured.grad_norm,
            "train/tokens_per_second": measured.tokens_per_second,
        }
        if measured.is_finite:
            position.skipped, position.train = 0, position.train + sums
        else:  # its loss would be the epoch's mean, too
            row[SKIPPED] = self._count_skipped(taken.step)
        self.last_measured = {"step": taken.step, "epoch": taken.epoch, **row}
        self.curve.append(self.last_measured)
        self.tracker.log(taken.step, logged(row))

    def _log(self, row: dict[str, float]) -> None:
        self._log_at(self.position, row)

    def _log_at(self, position: Position, row: dict[str, float]) -> None:
        self.curve.append({"step": position.step, "epoch": position.epoch, **row})
        self.tracker.log(position.step, logged(row))

    def _count_skipped(self, step: int) -> float:
        position = self.position
        position.skipped, position.skipped_steps = position.skipped + 1, position.skipped_steps + 1
        if position.skipped_steps == 1:
            tqdm.write(f"step {step}: loss or gradient is not finite; it is skipped, and counted in {SKIPPED}")
        return float(position.skipped_steps)

    def _refuse_divergence(self, step: int) -> None:
        if self.position.skipped < MAX_SKIPPED:
            return
        name = self.inputs.name
        what = f"loss or gradient was not finite in {MAX_SKIPPED} steps in a row, up to step {step}"
        remedy = (
            f"lower train_{name}.lr, raise warmup_steps, or use precision: fp32. dvc repro then starts {name} from its "
            "beginning; what was trained is kept beside it, and goes on when the value is set back"
        )
        raise UserError("training diverged", [Problem(f"train_{self.inputs.name}", what, remedy)])
