"""Progress in a terminal, and where there is none."""

import io
import sys
import time

import pytest
from tqdm import tqdm

from xtts_finetune.core import bars
from xtts_finetune.core.bars import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "SECONDS", 0.05)


def a_log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """In stderr's place: not by a fixture, as pytest puts its own there when a test begins."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    return log


@pytest.mark.parametrize("leave", [True, False])
def test_in_a_log_a_line_every_so_often(monkeypatch: pytest.MonkeyPatch, leave: bool) -> None:
    log = a_log(monkeypatch)
    for _ in Bar(range(40), desc="phase1", unit="step", leave=leave, mininterval=0.5):
        time.sleep(0.005)
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert 2 <= len(lines) <= 8
    assert all(line.startswith("phase1: ") and "step/s" in line for line in lines)
    assert log.getvalue().endswith("\n")
    assert not leave or "40/40" in lines[-1]


def test_what_is_soon_done_says_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    log = a_log(monkeypatch)
    list(Bar(range(10), desc="reading"))
    with Bar(total=10) as bar:
        bar.update(10)
    assert log.getvalue() == ""


def test_what_is_said_beside_it_stands_in_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = a_log(monkeypatch)
    with Bar(total=4, desc="phase1") as bar:
        for _ in range(4):
            time.sleep(0.06)
            bar.update()
            tqdm.write("epoch 1 of 3")
    assert capsys.readouterr().out == "epoch 1 of 3\n" * 4
    lines = log.getvalue().splitlines()
    assert len(lines) >= 4
    assert all(line.startswith("phase1: ") for line in lines)


def test_in_a_terminal_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(Bar(range(10), desc="reading"))
    assert "\rreading: 100%" in terminal.getvalue()


def test_bars_below_each_other_move_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    log = a_log(monkeypatch)
    with Bar(total=3, desc="phase1") as outer:
        for _ in range(3):
            for _ in Bar(range(10), desc="evaluating", leave=False):
                time.sleep(0.01)
            outer.set_description("phase1, on")
            outer.update()
    lines = log.getvalue().splitlines()
    assert {line.partition(":")[0] for line in lines} <= {"phase1", "phase1, on", "evaluating"}
    assert "\x1b" not in log.getvalue()
    assert any(line.startswith("evaluating") for line in lines)


def test_another_description_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log = a_log(monkeypatch)
    with Bar(total=2, desc="checking") as bar:
        for name in "reading", "writing":
            bar.set_description(name)
            bar.update()
    assert log.getvalue() == ""
