import subprocess
from pathlib import Path

import pytest

from xtts_finetune.tracking.environment import environment_tags


def test_environment_tags_of_a_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code").write_text("1")
    git("add", "code")
    git("commit", "-m", "x")
    tags = environment_tags(tmp_path)
    assert len(tags["git_commit"]) == 40
    assert tags["mlflow.source.git.commit"] == tags["git_commit"]
    assert (tags["git_dirty"], tags["mlflow"]) == ("false", "3.17.2")
    (tmp_path / "code").write_text("2")
    assert environment_tags(tmp_path)["git_dirty"] == "true"


def test_environment_tags_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_tags(tmp_path)["git_commit"] == "unknown"
    monkeypatch.setenv("PATH", "")
    tags = environment_tags(Path.cwd())
    assert (tags["git_commit"], tags["git_dirty"]) == ("unknown", "unknown")


def test_what_the_pipeline_itself_writes_does_not_make_a_clone_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "reports").mkdir()
    for name in ("dvc.lock", "dvc.yaml", "reports/evaluation.json"):
        (tmp_path / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    (tmp_path / "reports" / "evaluation.json").unlink()  # as DVC, before it runs a stage
    (tmp_path / "dvc.lock").write_text("2")
    assert environment_tags(tmp_path)["git_dirty"] == "false"
    (tmp_path / "dvc.yaml").write_text("2")
    assert environment_tags(tmp_path)["git_dirty"] == "true"
