"""Saves behind the training: each in its turn, each of its moment, none after one that failed."""

from threading import Event
from typing import Any

import pytest
import torch
from making.params import make_params
from safetensors.torch import load_file
from stored import steps
from workbench import make_run

from xtts_finetune.core.errors import DiskFull
from xtts_finetune.core.layout import Workspace
from xtts_finetune.training.run import Run

pytestmark = pytest.mark.usefixtures("short_prompts")


@pytest.fixture
def run(workspace: Workspace) -> Run:
    run = make_run(workspace, make_params())
    run.evaluate()
    return run


def hold_up(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Event:
    """Let the first save wait for the event, and then fail if there is an error."""
    may_write, save = Event(), run.store.save

    def held_up(step: int, *arguments: Any) -> bool:
        may_write.wait(30)
        if error and step == 0:
            raise error
        return save(step, *arguments)

    monkeypatch.setattr(run.store, "save", held_up)
    return may_write


def test_a_save_takes_its_turn_behind_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on with both; each is of its moment."""
    may_write = hold_up(run, monkeypatch)
    moments = []
    for _ in range(2):
        moments.append({name: value.clone() for name, value in run.gpt.state_dict().items()})
        run.save()
        assert not run.store.states()
        if len(moments) == 1:
            run.take_step()
    may_write.set()
    run.take_step()
    run.finish_saving()
    assert steps(run.store) == [0, 1]
    for state, moment in zip(run.store.states(), moments, strict=True):
        written = load_file(state.weights)
        assert all(torch.equal(written[name], value) for name, value in moment.items())


def test_nothing_is_written_after_a_save_that_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = hold_up(run, monkeypatch, DiskFull("no room for the best"))
    run.save()
    run.take_step()
    run.save()
    may_write.set()
    with pytest.raises(DiskFull, match="no room for the best"):
        run.finish_saving()
    with pytest.raises(DiskFull):
        run.finish_saving()
    assert not run.store.states()


def test_a_moment_that_could_not_be_copied_is_not_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save()
    run.take_step()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_foreach_copy_", fail)
        run.save()
        with pytest.raises(MemoryError):
            run.finish_saving()
    assert steps(run.store) == [0]


def fail(*_: object, **__: object) -> None:
    raise MemoryError
