"""What a machine must have for several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from checkouts import Checkout
from making.params import starter
from torch.distributed.elastic.multiprocessing.api import SubprocessContext

from xtts_finetune.core.errors import EXIT_BUG, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import LaunchParams
from xtts_finetune.stages.check import check
from xtts_finetune.stages.join import join
from xtts_finetune.training.launch import _Agent, _origin, refuse_what_is_lacking


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


@pytest.mark.skipif(sys.platform == "win32", reason="several processes are refused there")
def test_who_left_because_of_another_is_not_at_fault() -> None:
    """Whatever the order of their ranks; what torch kills then is not asked."""
    agent = _Agent.__new__(_Agent)
    agent._pcontext = SubprocessContext.__new__(SubprocessContext)
    ends = ["sys.exit(76)", "sys.exit(1)", "sys.exit(0)", "time.sleep(60)"]
    children = [subprocess.Popen([sys.executable, "-c", f"import sys, time; {end}"]) for end in ends]
    for child in children[:-1]:
        child.wait(60)
    agent._pcontext.subprocess_handlers = {
        rank: SimpleNamespace(proc=child)  # type: ignore[misc]
        for rank, child in enumerate(children)
    }
    assert agent._exit_codes() == [1, 76]
    children[-1].kill()
    children[-1].wait(60)


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


def test_what_this_machine_cannot_do_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, fresh: Checkout) -> None:
    """Only a head that is not there yet is."""

    def refuses(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with socket.create_server(("127.0.0.1", 0)) as head:
        params = yaml.safe_load((fresh.root / "params.yaml").read_text())
        params["launch"] = {"processes": 1, "nodes": 2, "rendezvous": f"127.0.0.1:{head.getsockname()[1]}"}
        (fresh.root / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.setattr("xtts_finetune.stages.join.serve", refuses)
        with pytest.raises(PermissionError):
            list(join(Workspace(fresh.root)))


def test_machines_with_another_launcher_do_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    ours = _origin(workspace)
    assert {"the version of peft", "the code of the launcher"} <= ours.keys()
    monkeypatch.setattr("xtts_finetune.training.launch._TALKING", ("training/launch.py",))
    changed = {name for name, value in _origin(workspace).items() if value != ours[name]}
    assert changed == {"the code of the launcher"}


@pytest.mark.skipif(sys.platform == "win32", reason="several processes are refused there")
def test_a_process_that_fails_does_not_stay_behind() -> None:
    """Torch's threads may hold it for ever in Python's own way to end."""
    program = """
import threading, time
from xtts_finetune.stages import worker
worker.Team.join = lambda: 1 / 0
threading.Thread(target=time.sleep, args=[300]).start()
worker.main()
"""
    environment = os.environ | {"RANK": "1", "LOCAL_RANK": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == EXIT_BUG
    assert "ZeroDivisionError" in done.stderr
