"""Messages that say where, what and how to go on; exit codes that say what kind of end it was."""

from collections.abc import Callable

import pytest

from xtts_finetune.core.errors import (
    EXIT_DONE,
    EXIT_RESUMABLE,
    EXIT_USER,
    Problem,
    Stopped,
    UserError,
    exit_code_of,
)

PROBLEM = Problem("params.yaml: seed", "is missing", "add it")


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: None) == EXIT_DONE == 0
    assert capsys.readouterr().err == ""
    assert exit_code_of(raising(UserError("params.yaml cannot be used", [PROBLEM]))) == EXIT_USER == 2
    said = capsys.readouterr().err
    assert said.startswith("error: params.yaml cannot be used\n  params.yaml: seed\n      is missing\n")
    assert "remedy: add it" in said
    assert "Traceback" not in said
    assert exit_code_of(raising(Stopped("phase1 is saved at step 7"))) == EXIT_RESUMABLE == 75
    assert capsys.readouterr().err == "stopped: phase1 is saved at step 7\n"
    assert exit_code_of(raising(KeyboardInterrupt())) == EXIT_RESUMABLE
    assert capsys.readouterr().err == "stopped: interrupted\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), AssertionError()])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        exit_code_of(raising(error))


def test_every_problem_is_in_the_message() -> None:
    problems = [Problem(f"file {i}", f"wrong {i}", f"do {i}") for i in range(3)]
    message = str(UserError("three things", iter(problems)))
    assert all(part in message for p in problems for part in (p.where, p.what, p.remedy))
    with pytest.raises(AssertionError):
        UserError("nothing is wrong", [])
