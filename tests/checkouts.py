"""A checkout of the project in a folder of its own, and the processes that people and DVC start in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from making.params import ParamsFile
from making.project import PROJECT

from xtts_finetune.core.files import link_or_copy

# Variables that would change what the programs do or how they look.
FOREIGN = ("GIT_", "DVC_", "MLFLOW_", "PYTHON", "GITHUB_", "FORCE_COLOR", "PY_COLORS", "COLUMNS")


@dataclass(frozen=True)
class Checkout:
    """A checkout in `root`, whose own src/, or else this one's, runs with the packages of this environment."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's, with this environment's programs first and nothing of the user's configuration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        here = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            here |= {f"GIT_{who}_NAME": "Quiz Host", f"GIT_{who}_EMAIL": "host@example.org"}
        for folder in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
            here[f"DVC_{folder}"] = str(self.root.parent / f"{self.root.name}.{folder.lower()}")
        here |= {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": f"{self.root / 'src'}{os.pathsep}{PROJECT / 'src'}"}
        here |= {"CUDA_VISIBLE_DEVICES": ""}  # equal bytes are promised on the CPU
        programs = Path(sys.executable).parent  # not resolved: .venv/bin, not the Python it was made with
        return {**kept, **here, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """A process group of its own, so that it can be killed with all it started."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run to the end, which must be this exit code."""
        process = self.start(*command)
        with killed_on_failure(process):
            out, err = process.communicate()
        assert process.returncode == code, f"{' '.join(command)}: exit code {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(command, code, out, err)

    def stage(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """What dvc.yaml calls."""
        return self.run("python", "-m", "xtts_finetune.stages", *arguments, code=code)

    def repro(self, *arguments: str) -> str:
        """`dvc repro`; what it and the stages print."""
        done = self.run("dvc", "repro", *arguments)
        return done.stdout + done.stderr

    def commit(self, message: str = "A run") -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def json(self, name: str) -> Any:
        return json.loads((self.root / name).read_text(encoding="utf-8"))

    def lock(self) -> dict[str, dict[str, Any]]:
        """dvc.lock: stage → out or dep by path."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {
            name: {item["path"]: item for kind in ("deps", "outs") for item in stage.get(kind, [])}
            for name, stage in stages.items()
        }

    def change_params(self, change: Callable[[ParamsFile], None]) -> None:
        file = self.root / "params.yaml"
        params = yaml.safe_load(file.read_text(encoding="utf-8"))
        change(params)
        file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def files(self, *folders: str) -> list[str]:
        """Every file under these folders, relative to the root."""
        files = [file for folder in folders for file in (self.root / folder).rglob("*") if not file.is_dir()]
        return sorted(file.relative_to(self.root).as_posix() for file in files)

    def copy(self, root: Path) -> "Checkout":
        """All of it somewhere else; files that DVC shares with its cache, which nobody writes to, as links."""
        copied = Checkout(root)
        shutil.copytree(self.root, root, symlinks=True, copy_function=_link_or_copy)
        return copied

    def forget_training(self) -> None:
        """Back to where `prepare` was done and nothing after it, not even once before."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))
        stages["stages"] = {name: stages["stages"][name] for name in ("check", "prepare")}
        (self.root / "dvc.lock").write_text(yaml.safe_dump(stages, sort_keys=False), encoding="utf-8")
        for name in (".dvc/cache/runs", "checkpoints", "models", "work", "mlruns"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for file in (self.root / "reports").iterdir():
            if not file.name.startswith(("dataset.", "croissant.")):
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def leftovers(self) -> list[str]:
        """What an unfinished write would leave."""
        return [name for name in self.files(".") if name.endswith(".tmp") or ".tmp/" in name]


@contextmanager
def killed_on_failure(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Leave nothing running, whatever ends the block."""
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        raise


def _link_or_copy(source: str, target: str) -> None:
    if os.stat(source).st_nlink > 1:
        link_or_copy(Path(source), Path(target))
    else:
        shutil.copy2(source, target)
