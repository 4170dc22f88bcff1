"""Outs that are not as dvc.lock names them: refused, with what to type."""

from pathlib import Path

import pytest
from making import workspaces

from xtts_finetune.core.errors import UserError
from xtts_finetune.dvcio import named_run


def test_outs_that_differ_alike_have_one_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        f"train_{phase}": [{"changed outs": {f"checkpoints/{phase}": how, f"models/{phase}": "deleted"}}]
        for phase, how in (("phase1", "deleted"), ("phase2", "modified"))
    }
    monkeypatch.setattr(named_run, "changed_stages", lambda workspace: changed)
    workspace = workspaces.configured(tmp_path)
    with pytest.raises(UserError) as refused:
        named_run.refuse_unless_named(workspace, pruned_is_fine=False)
    deleted, modified = refused.value.problems
    assert deleted.where == "checkpoints/phase1, models/phase1, models/phase2"
    assert deleted.what == "are deleted, compared with dvc.lock"
    assert "dvc commit" not in deleted.remedy, "there is nothing to keep"
    assert modified.where == "checkpoints/phase2"
    assert modified.remedy.endswith("or keep what is here (dvc commit -f train_phase2)")
