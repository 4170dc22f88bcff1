"""Whom params.yaml names is told: of a stop, the end, a target and a full disk, and no stage fails of it."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from making.params import make_params
from making.project import PROJECT

from xtts_finetune.core.errors import Problem, Stopped, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import NotifyParams, Params
from xtts_finetune.stages import notify as telling
from xtts_finetune.stages import stops
from xtts_finetune.stages.notify import Notified, notify
from xtts_finetune.stages.stops import explained_stops, told
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.journal import Happening, journal, write_down

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands of a POSIX shell")
KEEP = 'cat > "told-$XTTS_FINETUNE_EVENT"'


@pytest.fixture(autouse=True)
def described(workspace: Workspace) -> None:
    workspace.params.write_bytes((PROJECT / "params.yaml").read_bytes())


def with_command(command: str | None, **changes: Any) -> Params:
    return make_params(**changes).model_copy(update={"notify": NotifyParams(command=command)})


def heard(workspace: Workspace, event: str) -> str:
    """What the command got; it is waited for."""
    file = workspace.root / f"told-{event}"
    for _ in range(600):
        if file.exists() and file.read_text(encoding="utf-8"):
            return file.read_text(encoding="utf-8")
        time.sleep(0.05)
    raise AssertionError(f"nobody was told of {event}")


def test_of_a_stop_with_the_report(workspace: Workspace) -> None:
    with pytest.raises(Stopped), told(workspace, with_command(KEEP), "prepare"), explained_stops(workspace):
        raise Stopped("asked to")
    lines = heard(workspace, "stop").splitlines()
    assert lines[0] == "prepare has stopped: asked to"
    assert lines[2].startswith("state      stopped")


def test_of_a_training_that_diverges_but_of_no_refusal(workspace: Workspace) -> None:
    """Who is refused sits before it, and nothing is written then: another may be training here."""
    workspace.work("phase1").mkdir(parents=True)
    Curve(workspace.running_curve("phase1")).append({"step": 7, "epoch": 0, "train/mel_ce": 99.0})
    write_down(workspace, Happening(kind="started", stage="phase1", time=1.0, step=0))  # of an earlier process
    before = sorted(workspace.root.rglob("*"))
    for title in ("this phase is already being trained", "training diverged"):
        assert sorted(workspace.root.rglob("*")) == before
        with pytest.raises(UserError), told(workspace, with_command(KEEP), "phase1"):
            if title == "training diverged":
                write_down(workspace, Happening.now(workspace, "resumed", "phase1", 0))
            raise UserError(title, [Problem("train_phase1", "it did", "lower lr")])
    assert heard(workspace, "stop").startswith("phase1 has stopped: training diverged\n")
    kinds = [(each.kind, each.step) for each in journal(workspace)]
    assert sorted(kinds, key=str) == [("began", None), ("resumed", 0), ("started", 0), ("stopped", 7)]
    assert "training diverged" in workspace.stopped.read_text(encoding="utf-8")


def test_of_the_end_once(workspace: Workspace) -> None:
    for stage in ("prepare", "evaluate"):
        with told(workspace, with_command(KEEP), stage):  # type: ignore[arg-type]
            pass
        assert (workspace.root / "told-finish").exists() == (stage == "evaluate")
    assert not (workspace.root / "told-stop").exists()


class _Tracker:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)


def test_of_the_target_and_the_disk_once_each(workspace: Workspace) -> None:
    tracker = _Tracker()
    params = with_command(f"{KEEP}; echo again >> count", target_mel_ce=2.5)
    notified = Notified(tracker, workspace, params, "phase1", since=100)
    notified.log(100, {"eval/mel_ce": 2.4, "disk/saves_skipped": 1.0})
    assert not list(workspace.root.glob("told-*")), "it was told before the run was stopped there"
    notified.log(110, {"eval/mel_ce": 2.6})
    notified.log(120, {"eval/mel_ce": 2.6, "eval_ema/mel_ce": 2.5})
    assert "phase1 has reached its target: Mel CE 2.500 at step 120" in heard(workspace, "target")
    notified.log(130, {"eval/mel_ce": 2.3})
    notified.log(130, {"disk/saves_skipped": 2.0})
    assert "no room for the state of phase1 at step 130" in heard(workspace, "disk low")
    notified.log(140, {"disk/saves_skipped": 3.0})
    assert tracker.steps == [100, 110, 120, 130, 130, 140]
    time.sleep(0.5)
    assert (workspace.root / "count").read_text().count("again") == 2


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo no such room >&2; exit 3", "exit code 3: no such room"),
        ("sleep 60", "it took longer than 0.2 s"),
        ("no-such-program", "exit code 127"),
    ],
)
def test_one_that_fails_is_said_and_nothing_else(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, why: str
) -> None:
    monkeypatch.setattr(telling, "TIMEOUT", 0.2 if command.startswith("sleep") else 60.0)
    notify(workspace, with_command(command), "stop", "it stopped")
    assert f"notify.command could not tell of stop: {why}" in capsys.readouterr().out


def test_nobody_is_named(workspace: Workspace) -> None:
    before = sorted(Path(workspace.root).iterdir())
    notify(workspace, with_command(None), "stop", "it stopped")
    assert sorted(Path(workspace.root).iterdir()) == before


@pytest.mark.parametrize("how", [ValueError("a bug"), SystemExit(2)], ids=["a bug", "processes that failed"])
def test_what_fails_is_no_state_of_peace(workspace: Workspace, how: BaseException) -> None:
    with pytest.raises(type(how)), told(workspace, with_command(KEEP), "phase1"):
        raise how
    assert heard(workspace, "stop").startswith("phase1 has stopped: ")
    page = workspace.status_page.read_text(encoding="utf-8")
    assert ("# Stopped" in page) == isinstance(how, ValueError)
    assert [each.kind for each in journal(workspace)] == ["began", "stopped"]


def test_a_report_that_cannot_be_made_is_said_to_who_is_told(workspace: Workspace) -> None:
    workspace.dataset_report.parent.mkdir(exist_ok=True)
    workspace.dataset_report.write_text("<<<<<<< HEAD", encoding="utf-8")
    with pytest.raises(Stopped), told(workspace, with_command(KEEP), "prepare"), explained_stops(workspace):
        raise Stopped("asked to")
    assert "the report cannot be made" in heard(workspace, "stop")


def test_ctrl_c_beside_the_report_leaves_a_done_stage_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stops, "write_pages", interrupted)
    with told(workspace, with_command(None), "evaluate"):
        pass
    assert [each.kind for each in journal(workspace)] == ["began", "ended"]


def test_a_command_that_takes_too_long_ends_with_all_it_started(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "TIMEOUT", 1.0)
    notify(workspace, with_command("(sleep 6000 & echo $! > pid; wait) | cat"), "stop", "it stopped")
    pid = int((workspace.root / "pid").read_text())
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)  # the kill was sent; of what is not killed pytest's timeout makes an end


def test_a_stop_is_written_down_with_the_furthest_step(workspace: Workspace) -> None:
    """The row of a save comes when it is done, behind those of later steps."""
    workspace.work("phase1").mkdir(parents=True)
    curve = Curve(workspace.running_curve("phase1"))
    for step, figures in ((20, {"train/mel_ce": 4.0}), (22, {"train/mel_ce": 4.0}), (20, {"disk/free_bytes": 1e9})):
        curve.append({"step": step, "epoch": 0, **figures})
    with pytest.raises(Stopped), told(workspace, with_command(None), "phase1"):
        raise Stopped("asked to")
    assert [each.step for each in journal(workspace) if each.kind == "stopped"] == [22]
