"""What a machine must have for several processes."""

import sys

import pytest
import torch
from checkouts import Checkout
from making.params import starter

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.stages.check import check
from xtts_finetune.stages.join import join
from xtts_finetune.training.launch import refuse_what_is_lacking


def launch(**changes: int) -> LaunchParams:
    return starter().launch.model_copy(update=changes)


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (["H100"], "launch.processes = 2\n      is more than this machine has GPUs, 1\n      remedy: write 1"),
        (["H100", "A100"], "would train on unlike GPUs: A100, H100\n      remedy: give those of one kind"),
        (["H100", "H100", "A100"], None),
        ([], None),
    ],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, gpus: list[str], said: str | None) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: gpus[index])
    if said is None:
        refuse_what_is_lacking(launch(processes=2))
        return
    with pytest.raises(UserError) as refused:
        refuse_what_is_lacking(launch(processes=2))
    assert said in str(refused.value)


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match=r"launch: processes 1, nodes 2\n.*cannot train on Windows"):
        refuse_what_is_lacking(launch(nodes=2))


def test_check_refuses_them_with_all_else_that_is_wrong(fresh: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before DVC deletes the outs of a stage that could not begin."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    params = starter().model_copy(update={"launch": launch(processes=2)})
    with pytest.raises(UserError) as refused:
        check(Workspace(fresh.root), params)
    assert "is more than this machine has GPUs, 1" in str(refused.value)
    assert "metadata.csv" in str(refused.value)


def test_one_machine_joins_no_other(fresh: Checkout) -> None:
    with pytest.raises(UserError, match=r"launch\.nodes = 1\n.*lets no machine join another one"):
        list(join(Workspace(fresh.root)))
