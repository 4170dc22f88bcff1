"""`status --watch`: the report as it changes, in a terminal and in a pipe."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkouts import Checkout
from rich.console import Console

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report import watch
from xtts_finetune.report.gathering import gather
from xtts_finetune.report.watch import curve, view
from xtts_finetune.tracking.curve import Curve


def trained(checkout: Checkout, figures: list[float], beside: dict[str, Any] | None = None) -> Curve:
    """A phase under way, evaluated at the end of each epoch of 100 steps."""
    work = checkout.root / "work" / "phase1"
    work.mkdir(parents=True, exist_ok=True)
    found = Curve(work / "curve.jsonl")
    for epoch, figure in enumerate(figures):
        found.append(
            {"step": 100 * epoch, "epoch": epoch, "eval/mel_ce": figure, "eval/text_ce": 3.0, **(beside or {})}
        )
    return found


def test_what_a_terminal_shows(fresh: Checkout) -> None:
    fresh.change_params(lambda params: params["train_phase1"].update(epochs=20, target_mel_ce=2.5))
    trained(fresh, [4.0, 3.5, 3.2, 3.05, 2.95, 2.9])
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(gather(Workspace(fresh.root)), console.width))
    said = console.export_text()
    assert "500 of 2,000 steps" in said
    assert "eval Mel CE of phase1" in said
    assert "* " in said or "*\n" in said
    assert "free" in said


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130])
def test_it_fits_the_terminal(fresh: Checkout, width: int) -> None:
    """The table has the columns that there is room for, and no line of it or of the curve is broken."""
    fresh.change_params(lambda params: params["train_phase1"].update(epochs=20, target_mel_ce=2.5))
    trained(fresh, [4.0, 3.5, 3.2])
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(gather(Workspace(fresh.root)), width))
    said = console.export_text().splitlines()
    [head] = [line for line in said if "eval Mel CE" in line and "step" in line]
    assert "…" not in head
    assert ("(× 0.01)" in head) == (width >= 130)
    found = Curve(fresh.root / "work" / "phase1" / "curve.jsonl")
    found.append({"step": 123_456, "epoch": 3, "eval/mel_ce": 3.1, "eval/text_ce": 3.0})
    for each in range(30, 131):  # whatever the figures are as wide as
        console = Console(width=each, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(view(gather(Workspace(fresh.root)), each))
        assert "…" not in console.export_text().partition("disk ")[0]
    rows = said[said.index(head) + 1 : said.index(head) + 4]
    assert [row.split()[0] for row in rows] == ["0", "100", "200"]
    assert sum("|" in line for line in said) == 12
    assert any(line.strip().startswith("step 0") and line.strip().endswith("200") for line in said)
    assert max(map(len, said)) <= width


def test_a_curve_of_characters(fresh: Checkout) -> None:
    trained(fresh, [4.0, 3.0, 3.5])
    [phase, _] = gather(Workspace(fresh.root)).phases
    lines = curve(phase, 2.0, 130)
    assert lines[0].startswith("   4.000 |o")
    assert lines[-2].startswith("   2.000 |-----")
    assert sum(line.count("o") for line in lines[:-1]) == 2
    assert sum(line.count("*") for line in lines[:-1]) == 1
    assert "step 0" in lines[-1] and lines[-1].endswith("200")


@pytest.mark.parametrize(("target", "words"), [(0.5, "is far below"), (9.0, "is far above")])
def test_a_target_out_of_sight_leaves_the_curve_its_room(fresh: Checkout, target: float, words: str) -> None:
    trained(fresh, [4.0, 3.0, 3.5])
    [phase, _] = gather(Workspace(fresh.root)).phases
    lines = curve(phase, target, 130)
    assert lines[0].startswith("   4.000 |o")
    assert lines[11].startswith("   3.000 |")
    assert lines[-1].strip() == f"the target {target:.3f} {words}"


@pytest.mark.parametrize("figures", [[4.0], [4.0, 4.0], [4.0, float("nan")]], ids=str)
def test_a_curve_of_little(fresh: Checkout, figures: list[float]) -> None:
    trained(fresh, figures)
    [phase, _] = gather(Workspace(fresh.root)).phases
    assert curve(phase, None, 130)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_in_a_pipe_a_line_for_each_change(fresh: Checkout, tmp_path: Path) -> None:
    found = trained(fresh, [4.0, 3.5])
    process = fresh.start("xtts-finetune", "status", "--watch")
    assert process.stdout
    first = process.stdout.readline()
    assert "; eval Mel CE 3.500 at step 100" in first
    assert first.count("at step 100") == 2, "where the phase is, and where it was evaluated"
    found.append({"step": 200, "epoch": 2, "eval/mel_ce": 3.25, "eval/text_ce": 3.0})
    second = process.stdout.readline()
    assert "eval Mel CE 3.250 at step 200" in second
    assert "\r" not in first + second
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_one_moment_or_all(fresh: Checkout) -> None:
    said = fresh.run("xtts-finetune", "status", "--json", "--watch", code=2).stderr
    assert "leave out --watch" in said


def test_a_mistake_in_the_parameters_ends_no_view(fresh: Checkout) -> None:
    trained(fresh, [4.0, 3.5])
    fresh.change_params(lambda params: params.update(sead=1))
    report = gather(Workspace(fresh.root))
    assert report.mistakes
    assert view(report, 80)


def test_a_file_that_is_written_just_now_is_looked_at_again(fresh: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC writes dvc.lock in place: for a moment half of it is there."""
    workspace = Workspace(fresh.root)
    monkeypatch.setattr(watch, "SECONDS", 0.0)
    looks = watch._reports(workspace)
    assert next(looks).state == "nothing prepared"
    workspace.dvc_lock.write_text("{", encoding="utf-8")
    with pytest.raises(UserError):
        next(looks)
    workspace.dvc_lock.unlink()
    trained(fresh, [4.0])
    failing = iter([True, True, False])
    real = watch.gather

    def gathered(*arguments: Any, **others: Any) -> Any:
        if next(failing):
            raise UserError("damaged", [Problem("dvc.lock", "is cut short", "look again")])
        return real(*arguments, **others)

    monkeypatch.setattr(watch, "gather", gathered)
    assert next(watch._reports(workspace)).phases[0].step == 0
