"""The commands of README and docs, as they are typed: in a checkout, with its environment activated or not."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkouts import Checkout
from making.project import PROJECT

PAGES = [
    "README.md",
    "docs/checkpoints.md",
    "docs/faults.md",
    "docs/measurements.md",
    "docs/bases.md",
    "docs/reproducing.md",
    "base/xtts_v2/README.md",
]
PROGRAMS = ("make ", "dvc ", "mlflow ", "xtts-finetune ", ".venv/", "cp ", "ls ", "hf ", "python ")
# Commands that cannot run here, and why.
NOT_HERE = {
    "make repro": "installs .venv: what .ci/run does first, on a clone",
    "make test": "is these tests",
    "python ": "measures, with files that are not in the repository, for minutes",
    "make ui": "serves until it is stopped: tests/tracking/test_server.py",
    ".venv/bin/xtts-finetune base fetch --accept-licence": "needs the network: tests/ops/test_base.py",
    ".venv/bin/xtts-finetune rebuild --step": "has a step of the starter run: tests/replay/test_rebuild_typed.py",
    ".venv/bin/xtts-finetune reproduce champion --check": "takes half a minute: tests/replay/test_reproduce.py",
    "dvc exp run --queue": "is for a worker to run: tests/ops/test_queued_experiments.py",
    "dvc queue start": "leaves a worker behind, for minutes: tests/ops/test_queued_experiments.py",
}
ACTIVATE = ". .venv/bin/activate"  # in a block, for what follows
REFUSED = {"cp presets/xtts_v2.yaml params.yaml"}  # what follows it in its block needs the published base


@dataclass(frozen=True)
class Typed(Checkout):
    """As a user's shell has it: the environment is .venv in the checkout, and on PATH only if it is activated."""

    activated: bool

    @property
    def environment(self) -> dict[str, str]:
        outside = "/usr/bin:/bin"
        here = f"{self.root / '.venv' / 'bin'}{os.pathsep}" if self.activated else ""
        return {**super().environment, "PATH": here + outside}


def blocks(page: str) -> Iterator[list[str]]:
    """The commands of each block, without their remarks. Lines that a program printed are not among them."""
    text = (PROJECT / page).read_text(encoding="utf-8").replace("\\\n", "")
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = (
            re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip() for line in block.splitlines() if line[:1] != " "
        )
        commands, before = list[str](), ""
        for line in lines:
            before = f"{ACTIVATE} && " if line == ACTIVATE else before
            if line.startswith(PROGRAMS):
                commands.append(before + re.sub(r"  +", " ", line))
        if commands:
            yield commands


def plain(command: str) -> str:
    return command.removeprefix(f"{ACTIVATE} && ")


def program(command: str) -> str:
    return plain(command).split()[0]


def reason_not_here(command: str) -> str | None:
    return next((reason for start, reason in NOT_HERE.items() if plain(command).startswith(start)), None)


def test_what_cannot_run_here_stands_in_the_pages() -> None:
    commands = [command for page in PAGES for block in blocks(page) for command in block]
    assert len(commands) > 10
    for start in NOT_HERE:
        assert any(plain(command).startswith(start) for command in commands), start


@pytest.mark.slow
@pytest.mark.parametrize("activated", [True, False], ids=["activated", "not activated"])
def test_every_command_works_as_typed(finished: Checkout, tmp_path: Path, activated: bool) -> None:
    finished.copy(tmp_path / "checkout")
    typed, seen = Typed(tmp_path / "checkout", activated), set[str]()
    (typed.root / ".venv").symlink_to(Path(sys.executable).parent.parent, target_is_directory=True)
    shutil.copytree(PROJECT / "presets", typed.root / "presets")
    for page in PAGES:
        for block in blocks(page):
            refused = False
            for command in block:
                # where it is activated, one of each program: it is .venv's in either case
                if reason_not_here(command) or (activated and program(command) in seen):
                    continue
                done = typed.run("sh", "-c", command, code=255 if refused else 0)
                assert "No module named" not in done.stderr
                assert not refused or "remedy: .venv/bin/xtts-finetune base fetch" in done.stderr
                refused = refused or command in REFUSED
                seen.add(program(command))
            if refused:
                shutil.copy(finished.root / "params.yaml", typed.root)
    assert seen > {".venv/bin/dvc", ".venv/bin/xtts-finetune"}
