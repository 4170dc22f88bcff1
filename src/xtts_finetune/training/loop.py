"""The training run: one loop for both phases."""

from typing import Any

from tqdm import tqdm

from xtts_finetune.core.errors import Stopped
from xtts_finetune.training.interrupts import StopRequest
from xtts_finetune.training.run import Run


def fit(run: Run, stop: StopRequest) -> str:
    """Train a phase to its end, from wherever it was left; returns why it ended.

    Raises:
        Stopped: a signal asked for it; everything is saved.
        UserError: the run diverges.
    """
    if not run.resume():
        run.evaluate()
        run.save()
    with _progress(run) as bar:
        while (reason := run.ended) is None:
            run.take_step()
            if run.at_epoch_end:
                run.end_epoch()
                run.evaluate()
                run.save()
            elif run.should_save or stop:
                run.save()
            _show(bar, run)
            if stop and run.ended is None:
                raise Stopped(f"{run.inputs.name} is saved at step {run.position.step}; run dvc repro again to resume")
    return reason


def _progress(run: Run) -> "tqdm[Any]":
    done = run.position.step - run.inputs.start_step
    return tqdm(total=run.steps, initial=done, desc=run.inputs.name, unit="step", mininterval=0.5)


def _show(bar: "tqdm[Any]", run: Run) -> None:
    train = [row for row in run.curve.rows[-2:] if "train/mel_ce" in row][-1]
    position, epochs = run.position, run.phase.epochs
    bar.set_postfix_str(
        f"epoch {min(position.epoch + 1, epochs)}/{epochs} mel_ce {train['train/mel_ce']:.3f} "
        f"lr {train['train/lr']:.1e} {train['train/tokens_per_second']:.0f} tok/s "
        f"best eval mel_ce {position.best_mel_ce:.3f} at {position.best_step}",
        refresh=False,
    )
    bar.update()
