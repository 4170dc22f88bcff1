import subprocess
from pathlib import Path

import pytest

from xtts_finetune.tracking.environment import changed_params, environment_tags, line_of_work, source_tags


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


def repository(root: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    (root / "params.yaml").write_text("seed: 42\ntrain_phase1: {lr: 0.001, batch_size: 4, epochs: 3}\n")
    git("init", "--initial-branch", "night-voice")
    git("config", "user.name", "Ada")
    git("add", ".")
    git("commit", "-m", "x")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:ghp_secret@github.com/ada/voices.git", "https://github.com/ada/voices.git"),
        ("https://ghp_secret@github.com/ada/voices.git?token=ghp_secret", "https://github.com/ada/voices.git"),
        ("ssh://git@host:22/ada/voices.git", "ssh://host:22/ada/voices.git"),
        ("ada:ghp_secret@host:voices.git", "host:voices.git"),
        ("git@github.com:ada/voices.git", "git@github.com:ada/voices.git"),
        ("/srv/voices@home:2.git", "/srv/voices@home:2.git"),
    ],
)
def test_the_source_is_named_without_secrets(tmp_path: Path, url: str, shown: str) -> None:
    repository(tmp_path)
    subprocess.run(["git", "remote", "add", "origin", url], cwd=tmp_path, check=True)
    tags = source_tags(tmp_path, "phase1")
    assert (tags["mlflow.source.name"], tags["mlflow.source.git.repoURL"]) == (shown, shown)
    assert (tags["mlflow.source.git.branch"], tags["mlflow.user"]) == ("night-voice", "Ada")
    assert "secret" not in str(tags)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:to[secret@h/x",
        "https://u:pa/secret@h/x",
        "https://u:pa#secret@h/x",
        "https://u:pa?secret@h/x",
        "u:pa/secret@h:p",
        "u:pa@secret@h:p",
        "git@u:secret@h:p",
        "codecommit::https://u:secret@h/x",
    ],
)
def test_an_address_that_may_hide_a_secret_is_not_told(tmp_path: Path, url: str) -> None:
    repository(tmp_path)
    subprocess.run(["git", "remote", "add", "origin", url], cwd=tmp_path, check=True)
    tags = source_tags(tmp_path, "phase1")
    assert tags["mlflow.source.name"] == tmp_path.name
    assert "mlflow.source.git.repoURL" not in tags


def test_a_line_of_work_is_the_experiment_the_branch_or_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert line_of_work(tmp_path) == tmp_path.name
    assert source_tags(tmp_path, "phase1")["mlflow.source.name"] == tmp_path.name
    repository(tmp_path)
    assert line_of_work(tmp_path) == "night-voice"
    monkeypatch.setenv("DVC_EXP_NAME", "softer")
    assert line_of_work(tmp_path) == "softer"


def test_what_git_says_in_another_encoding_stops_nothing(tmp_path: Path) -> None:
    repository(tmp_path)
    with (tmp_path / ".git" / "config").open("ab") as config:
        config.write(b"[user]\n\tname = Ren\xe9\n")  # Latin-1
    (tmp_path / "params.yaml").write_bytes(b"seed: 42 # d\xe9part\n")
    subprocess.run(["git", "-c", "user.email=a@b", "commit", "-am", "x"], cwd=tmp_path, check=True, capture_output=True)
    assert source_tags(tmp_path, "phase1")["mlflow.user"] == "Ren\N{REPLACEMENT CHARACTER}"
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    assert changed_params(tmp_path, "seed") == ["seed 7"]


def test_what_differs_from_the_last_commit_is_told(tmp_path: Path) -> None:
    repository(tmp_path)
    assert changed_params(tmp_path, "seed", "train_phase1") == []
    (tmp_path / "params.yaml").write_text("seed: 7\ntrain_phase1: {lr: 0.01, batch_size: 8, epochs: 3}\n")
    assert changed_params(tmp_path, "seed", "train_phase1") == ["seed 7", "batch_size 8"]  # lr is in every name
    assert changed_params(tmp_path, "train_phase2") == []
    (tmp_path / "params.yaml").write_text("seed: [")
    assert changed_params(tmp_path, "seed") == []
