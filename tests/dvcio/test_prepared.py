"""Whether prepared/ is what the parameters and the recordings of now make."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from making import workspaces
from making.params import of_the_real_model
from making.prepared import describe_base

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.prepared_base import prepared_base
from xtts_finetune.dvcio.prepared import outdated

PARAMS = of_the_real_model()
ONE, OTHER = f"{'1' * 32}.dir", f"{'2' * 32}.dir"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """In which `prepare` ran, with these parameters and recordings."""
    workspace = workspaces.described(tmp_path)
    lock(workspace)
    add(workspace, ONE)
    return workspace


def lock(workspace: Workspace, **changes: Any) -> None:
    used = {name: PARAMS.model_dump()[name] for name in ("seed", "base", "prepare", "vocabulary")}
    stage = {"params": {"params.yaml": used | changes}, "deps": [{"path": "data", "md5": ONE}]}
    workspace.dvc_lock.write_text(yaml.safe_dump({"stages": {"prepare": stage}}), encoding="utf-8")


def add(workspace: Workspace, recordings: str) -> None:
    outs = {"outs": [{"path": "data", "md5": recordings}]}
    (workspace.root / "data.dvc").write_text(yaml.safe_dump(outs), encoding="utf-8")


def test_it_is(workspace: Workspace) -> None:
    assert outdated(workspace, PARAMS) is None


def test_before_prepare_there_is_nothing_to_be_outdated(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    lock(workspace, seed=7)
    assert outdated(workspace, PARAMS) is None


@pytest.mark.parametrize("base", ["mini", "anna", "../elsewhere"])
def test_another_base(workspace: Workspace, base: str) -> None:
    assert outdated(workspace, PARAMS.model_copy(update={"base": base})) == "is of another base"
    describe_base(workspace, base=base)
    assert outdated(workspace, PARAMS) == "is of another base"
    assert prepared_base(workspace, base) == prepared_base(workspace)


def test_other_settings(workspace: Workspace) -> None:
    lock(workspace, seed=7)
    assert outdated(workspace, PARAMS) == "was made with other settings: seed"
    lock(workspace, prepare={"max_seconds": 5.0}, seed=7)
    assert outdated(workspace, PARAMS) == "was made with other settings: prepare, seed"


def test_other_recordings(workspace: Workspace) -> None:
    add(workspace, OTHER)
    assert outdated(workspace, PARAMS) == "was made of other recordings than data.dvc names"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"gpt": {"path": "base/xt'])
def test_damaged(workspace: Workspace, content: str) -> None:
    file = workspace.prepared / "base" / "base.json"
    file.write_text(content)
    with pytest.raises(UserError, match="what an earlier stage left cannot be used") as refused:
        prepared_base(workspace)
    [problem] = refused.value.problems
    assert problem.where == str(file)
    assert "dvc repro -f prepare" in problem.remedy
