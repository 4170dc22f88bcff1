"""The code and software that a run used, and who started it where."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from getpass import getuser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xtts_finetune.core.layout import DVC_EXPERIMENT

_WRITTEN = ("dvc.lock", "reports")  # by the pipeline itself; DVC deletes a stage's git-tracked outs before it runs it
# As `dvc exp run` tells a stage: the experiment's name, and the commit that it began from.
_EXPERIMENT, _BASELINE = DVC_EXPERIMENT, "DVC_EXP_BASELINE_REV"
# Of addresses without ://, as git reads them: a path, git@github.com:voices/anna, and that with a password.
_PATH = ("/", "./", "../", "~")
_PLAIN_USER = re.compile(r"[\w.-]+@[\w.-]+:[^@]*\Z")
_SCP = re.compile(r"[^@/]*@(?P<place>[^@/:]+:[^@]*)")
_SHOWN = 3  # changed parameters in a name


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


def source_tags(root: Path, stage: str) -> dict[str, str]:
    """Where the code of a stage comes from and who ran it, as MLflow's own tags: its pages show and link them."""
    url = without_credentials(_git(root, "config", "--get", "remote.origin.url") or "")
    branch = _git(root, "branch", "--show-current")
    return {
        "mlflow.user": _git(root, "config", "--get", "user.name") or user(),
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": url or root.resolve().name,
        "mlflow.project.entryPoint": stage,
        **({"mlflow.source.git.repoURL": url} if url else {}),
        **({"mlflow.source.git.branch": branch} if branch else {}),
    }


def without_credentials(url: str) -> str:
    """The address of a git repository without what may be a secret in it: user, password, query; "": it can't be told.

    A password may have any character in it, and end what is read as the host before its time.
    """
    if "://" in url:
        try:
            parts = urlsplit(url)
        except ValueError:
            return ""
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        return "" if "@" in shown + parts.query + parts.fragment else shown
    if "@" not in url or url.startswith(_PATH) or _PLAIN_USER.match(url):
        return url
    found = _SCP.fullmatch(url)
    return found["place"] if found else ""


def line_of_work(root: Path) -> str:
    """What people call the line of work: the experiment of `dvc exp run`, else the git branch, else the folder."""
    return os.environ.get(_EXPERIMENT) or _git(root, "branch", "--show-current") or root.resolve().name


def changed_params(root: Path, *sections: str) -> list[str]:
    """What of these sections of params.yaml differs from the last commit, as "batch_size 8"; three, and how many more.

    Of an experiment from the commit that it began from. Without git nothing; and never lr, which every name has.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = _git(root, "show", f"{os.environ.get(_BASELINE) or 'HEAD'}:./params.yaml")
    if text is None:
        return []
    yaml = YAML(typ="safe", pure=True)
    try:
        before, now = yaml.load(text), yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    except (YAMLError, OSError, UnicodeDecodeError):
        return []  # of another time, in another form: the name does without
    then, settings = dict(_flat(before, sections)), dict(_flat(now, sections))
    changes = [f"{name} {value}" for name, value in settings.items() if name != "lr" and then.get(name, value) != value]
    more = [f"{len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
    return changes[:_SHOWN] + more


def _flat(params: Any, sections: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The settings of sections, by their last name; a section that is itself a value by its own."""
    for section in sections:
        values = params.get(section) if isinstance(params, Mapping) else None
        if isinstance(values, Mapping):
            yield from values.items()
        elif values is not None:
            yield section, values


def user() -> str:
    """Who runs this, as the system calls them."""
    try:
        return getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return f"user {os.getuid()}"


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None without git or outside a repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.decode("utf-8", "replace").strip()  # names and files may be in any encoding


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
