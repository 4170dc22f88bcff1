"""The project's own files, put into a folder."""

import shutil
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "samples"
# What a clone has, as far as a pipeline needs it.
CLONED = [
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitattributes", ".gitignore"),
    *("dvc.yaml", "params.yaml", "mlflow.db", "mlruns/.gitkeep"),
    *("base/README.md", "base/mini/README.md", "base/xtts_v2/README.md", "scripts/stage", "scripts/stage.cmd"),
]


def copy_files(root: Path, *names: str) -> None:
    for name in names:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, target, follow_symlinks=False)


def copy_project(root: Path) -> None:
    copy_files(root, *CLONED)
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
