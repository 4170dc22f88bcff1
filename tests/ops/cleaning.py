"""`xtts-finetune clean` as it is typed, and what tests of it look at."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import tracked
from checkouts import Checkout

from xtts_finetune.core.disk import files_below, held_bytes

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
KEPT_STATE = {"phase1": "step-00000006", "phase2": "step-00000009"}
OLDER_STATE = {"phase1": "step-00000004", "phase2": "step-00000008"}


def clean(checkout: Checkout, *arguments: str, code: int = 0) -> str:
    done = checkout.run("xtts-finetune", "clean", *arguments, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def size(checkout: Checkout) -> int:
    return held_bytes(files_below(checkout.root))


def promised(said: str) -> float:
    """Bytes that a plan says it frees."""
    size = re.search(r": frees ([\d.]+) (\w+)", said)
    assert size, said
    return float(size[1]) * UNITS[size[2]]


def states(checkout: Checkout, phase: str, folder: str = "checkpoints") -> list[str]:
    return sorted(path.name for path in (checkout.root / folder / phase).glob("step-*"))


def digests(checkout: Checkout, *folders: str) -> dict[str, str]:
    return {name: hashlib.sha256((checkout.root / name).read_bytes()).hexdigest() for name in checkout.files(*folders)}


def assert_nothing_to_do(checkout: Checkout) -> None:
    status = checkout.run("dvc", "status").stdout
    assert "up to date" in status, status
    assert "Running stage" not in checkout.repro()
    assert checkout.leftovers() == []


def assert_registry_is_whole(checkout: Checkout, before: Checkout) -> None:
    assert tracked.aliases(checkout) == {"candidate": 1, "champion": 1}
    ours, theirs = (digests(each, "mlruns/artifacts") for each in (checkout, before))
    assert ours == theirs


def detached(checkout: Checkout, root: Path) -> Checkout:
    """All of it somewhere else, no file shared with the original: what is one file there is one file here."""
    names: dict[int, str] = {}

    def copy(source: str, target: str) -> None:
        known = names.setdefault(os.stat(source).st_ino, target)
        if known == target:
            shutil.copy2(source, target)
        else:
            os.link(known, target)

    shutil.copytree(checkout.root, root, symlinks=True, copy_function=copy)
    return Checkout(root)
