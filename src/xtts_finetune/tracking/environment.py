"""The code and software that a run used."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_WRITTEN = ("dvc.lock", "reports")  # by the pipeline itself; DVC deletes a stage's git-tracked outs before it runs it


def environment_tags(root: Path) -> dict[str, str]:
    """Code and software that a run used: git commit of `root`, python, platform, package versions, or "unknown"."""
    commit = _git(root, "rev-parse", "HEAD")
    others = [f":(exclude){name}" for name in _WRITTEN]
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    return {
        "mlflow.source.git.commit": commit or "unknown",
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    } | {name: _version(name) for name in ("torch", "coqui-tts", "transformers", "mlflow", "dvc")}


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None without git or outside a repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
