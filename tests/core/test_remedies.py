"""What a remedy says to type does what it says, wherever the project lies."""

import re
import subprocess
from pathlib import Path

import pytest

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import UserError
from xtts_finetune.tracking.outbox import Outbox

SOURCES = Path(__file__).parents[2] / "src"
NAMES = ["my voice", "voice", "o'hara", "a;b", "$(touch hacked)", "two\nlines", "-r", "*"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_one_word(name: str) -> None:
    command = f"printf %s {quoted(Path('/some/where') / name)}"
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout == f"/some/where/{name}"


def test_a_blank_in_a_path_deletes_no_other_folder(tmp_path: Path) -> None:
    precious, folder = tmp_path / "my", tmp_path / "my voice" / "work" / "undelivered" / "0123456789abcdef"
    precious.mkdir()
    folder.mkdir(parents=True)
    (folder / "delivery.json").write_text("{")
    with pytest.raises(UserError) as refused:
        Outbox.read(folder)
    command, _, _ = refused.value.problems[0].remedy.rpartition(": ")
    subprocess.run(["sh", "-c", command], check=True)
    assert (precious.exists(), folder.exists()) == (True, False)


def test_every_command_of_a_remedy_quotes_what_it_is_about() -> None:
    unquoted = re.compile(r"\b(?:rm|mv|cp|mkdir|git checkout|git stash apply|dvc exp apply)(?: -\w+)* \{(?!quoted\()")
    found = {
        f"{file.name}: {line.strip()}"
        for file in SOURCES.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if unquoted.search(line) and "git checkout {short}" not in line  # a commit's digits
    }
    assert found == set()
