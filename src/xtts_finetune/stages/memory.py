"""Where a device's memory does not hold a step: what is saved then, and what is said."""

import textwrap
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from xtts_finetune.core.errors import OutOfMemory
from xtts_finetune.core.layout import PhaseName
from xtts_finetune.training.run import Run

T = TypeVar("T")
# What torch says in a RuntimeError of its CPU's allocator (on Linux, on Windows) and of CUDA's libraries.
_SAID = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that a device, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def opened_within_memory(name: PhaseName, work: Callable[[], T]) -> T:
    """What `work` returns, which brings a phase's network to its device.

    Raises:
        OutOfMemory: the device does not hold it.
    """
    return _within(name, work, lambda said: f"{name}: the network does not fit in the memory: {said}")


def within_memory(run: Run, work: Callable[[], T]) -> T:
    """What `work` returns, which trains `run`.

    Raises:
        OutOfMemory: there is too little for it. What the last whole step came to is saved, if that has room.
    """

    def saved(said: str) -> str:
        what = _what_failed(run)
        _save(run)
        return f"{what} does not fit in the memory: {said}\n{run.resume_point}"

    return _within(run.inputs.name, work, saved)


def _within(name: PhaseName, work: Callable[[], T], text: Callable[[str], str]) -> T:
    """What `work` returns.

    Args:
        text: of the refusal, by what was said of the memory; what it does, it does with the memory let go of.

    Raises:
        OutOfMemory: there is too little for it.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold on to the step's tensors
        raise OutOfMemory(text(said_of(error)), name) from error


def said_of(error: Exception) -> str:
    """What it says, in one line."""
    return textwrap.shorten(str(error), 240, placeholder="…") or type(error).__name__


def _what_failed(run: Run) -> str:
    position, name = run.position, run.inputs.name
    if _is_evaluating(run):
        return f"{name}: the evaluation after step {position.step}"
    batches = run.share.plan.epoch(position.epoch)[position.epoch_step]
    train = run.inputs.train
    tokens = max(int((train.n_codes + train.n_tokens)[batch].sum()) for batch in batches)
    clips = max(len(batch) for batch in batches)
    return (
        f"{name}: step {position.step + 1}, of up to {clips} clips with {tokens:,} text tokens and audio codes a batch,"
    )


def _is_evaluating(run: Run) -> bool:
    """Whether an epoch has ended whose evaluation is still to come."""
    step, states = run.position.step, run.store.states()
    is_evaluated = run.last_evaluated is not None and run.last_evaluated["step"] == step
    return run.position.epoch_step == 0 and not is_evaluated and not (states and states[-1].step == step)


def _save(run: Run) -> None:
    """A state of where the run stands, unless it is there, or an update or an evaluation was cut off."""
    _finish_saving(run)
    is_there = any(state.step == run.position.step for state in run.store.states())
    if is_there or not run.is_whole or run.position.epoch_step == 0:
        return
    try:
        run.save()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    _finish_saving(run)


def _finish_saving(run: Run) -> None:
    """Each failed save is heard of once; what was saved before it stays."""
    while True:
        try:
            return run.finish_saving()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
