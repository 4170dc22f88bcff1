"""A DONE that says nothing makes a phase neither done nor taken over."""

from pathlib import Path

import pytest
from making.done_runs import summary

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan


@pytest.mark.parametrize("is_whole", [True, False])
def test_clean_keeps_its_resume_point(tmp_path: Path, is_whole: bool) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / ".dvc").mkdir()
    state = workspace.work("phase1") / "step-00000200"
    state.mkdir(parents=True)
    (state / "model.safetensors").write_bytes(b"weights")
    write_json(state / "manifest.json", {"files": {"model.safetensors": {"bytes": 7}}})
    write_json(workspace.work("phase1") / "DONE", summary(200) if is_whole else {})
    [kept] = [kept.why for kept in make_plan(workspace, Request("best_only")).kept]
    assert ("has yet to take it over" in kept) == is_whole
    assert ("resumes here" in kept) != is_whole
