"""The training run: one loop for both phases."""

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.stopping import Ending
from xtts_finetune.core.bars import Bar
from xtts_finetune.model.device import device_in_words
from xtts_finetune.training.interrupts import StopRequest
from xtts_finetune.training.run import Run


def fit(run: Run, state: Checkpoint | None, stop: StopRequest) -> Ending:
    """Train a phase to its end, from `state` or from its beginning; returns where and why it ended.

    Raises:
        Stopped: a signal asked for it; everything is saved.
        DiskFull: not even the weights of the best have room; what was saved before is whole.
        UserError: the run cannot be resumed, or diverges.
    """
    Bar.write(f"{run.inputs.name} trains {device_in_words()}{run.share.team.in_words}")
    if not run.resume(state):
        run.evaluate()
        run.save()
    with _progress(run) as bar:
        while (end := run.end) is None:
            run.take_step()
            stops = bool(stop)  # once: who stops has saved
            if run.at_epoch_end:
                run.end_epoch()
            if run.should_evaluate:
                run.evaluate()
                run.save()
            elif run.should_save or stops:
                run.save()
            _show(bar, run)
            if stops and run.end is None:
                run.finish_saving()
                if not stop.is_granted(run.is_saved):
                    continue
                raise stop.granted(f"{run.resume_point}; run dvc repro again to resume")
    run.finish_saving()
    return end


def _progress(run: Run) -> Bar:
    done = run.position.step - run.inputs.start_step
    return Bar(total=run.steps, initial=done, desc=run.inputs.name, unit="step", mininterval=0.5)


def _epochs(run: Run) -> str:
    """How many are done; between two ends, to a hundredth."""
    position = run.position
    if position.epoch_step == 0:
        return f"epoch {position.epoch}"
    return f"epoch {position.epoch + position.epoch_step / len(run.share.plan.epoch(position.epoch)):.2f}"


def _show(bar: Bar, run: Run) -> None:
    """The bar moves on; an evaluation leaves a line for good, also in a log."""
    last = run.last_evaluated
    if last and last["step"] == run.position.step:
        Bar.write(
            f"{run.inputs.name}: {_epochs(run)} of {run.phase.epochs}, step {last['step']}: "
            f"eval Mel CE {last['eval/mel_ce']:.3f}, Text CE {last['eval/text_ce']:.3f}"
            + (f"; EMA: {last['eval_ema/mel_ce']:.3f}, {last['eval_ema/text_ce']:.3f}" if run.share.ema else "")
        )
    if train := run.last_measured:
        position, epochs = run.position, run.phase.epochs
        bar.set_postfix_str(
            f"epoch {min(position.epoch + 1, epochs)}/{epochs} mel_ce {train['train/mel_ce']:.3f} "
            f"lr {train['train/lr']:.1e} {train['train/tokens_per_second']:.0f} tok/s "
            f"best eval mel_ce {position.best_mel_ce:.3f} at {position.best_step}",
            refresh=False,
        )
    bar.update()
