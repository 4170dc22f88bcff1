"""Commands in messages: as they are typed in the project's root, with `.venv` activated or not."""

import sys

import pytest

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import Problem


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("then: dvc repro", "then: .venv/bin/dvc repro"),
        ("git stash && dvc checkout", "git stash && .venv/bin/dvc checkout"),
        ("(xtts-finetune sync)", "(.venv/bin/xtts-finetune sync)"),
        ("xtts-finetune export phase1 ../anna", ".venv/bin/xtts-finetune export phase1 ../anna"),
        ("`mlflow ui`", "`.venv/bin/mlflow ui`"),
        (".venv/bin/dvc repro", ".venv/bin/dvc repro"),
        (
            "commit dvc.lock; dvc has it; xtts-finetune version 1",
            "commit dvc.lock; dvc has it; xtts-finetune version 1",
        ),
    ],
)
def test_a_command_gets_its_place(text: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/somewhere/my voice/.venv")
    assert as_typed(text) == typed
    assert as_typed(typed) == typed
    assert as_typed(text) in str(Problem("here", "is wrong", text))


def test_in_another_environment_it_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/somewhere/envs/voice")
    assert as_typed("then: dvc repro") == "then: dvc repro"
