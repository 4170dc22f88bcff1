"""Freeing room begins with what was held back for later."""

from contextlib import nullcontext
from typing import Any

import pytest

from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace import sweep
from xtts_finetune.diskspace.plan import Request


@pytest.mark.parametrize("runs", [True, False])
def test_the_room_for_its_page_stays_while_a_stage_runs(
    workspace: Workspace, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "refuse_unless_named", lambda *_, **__: None)  # no DVC is asked
    workspace.page_reserve.parent.mkdir(parents=True, exist_ok=True)
    workspace.page_reserve.write_bytes(bytes(1000))
    stage: Any = locked(workspace.work("phase1")) if runs else nullcontext()
    with stage:
        list(sweep.sweep(workspace, Request("best_only")))
    assert workspace.page_reserve.exists() == runs
