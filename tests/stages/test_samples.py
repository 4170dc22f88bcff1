"""When a phase in training is heard, and that nothing waits for who speaks: a process that is only told what to say."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from making.params import make_params

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import MANIFEST, WEIGHTS, Workspace, checkpoint_name
from xtts_finetune.core.params import Params, SamplesParams
from xtts_finetune.core.removal import remove
from xtts_finetune.stages import samples
from xtts_finetune.stages.samples import Sampled

# Instead of the model: writes down what it read, and its number.
SPEAK = """
import os, sys, time
from pathlib import Path
phase, step, weights = sys.argv[1:]
Path("speaking").write_text(str(os.getpid()))
while Path("wait").exists(): time.sleep(0.05)
folder = Path("work") / phase / "samples" / f"step-{int(step):08d}"
folder.mkdir(parents=True)
(folder / "1.wav").write_bytes(Path(weights).read_bytes())
"""


class _Tracker:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)


@pytest.fixture(autouse=True)
def speaking(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(samples, "_SPEAKING", ("-c", SPEAK))
    monkeypatch.setattr(samples, "_LOOK_SECONDS", 0.05)


def with_samples(every: int | None) -> Params:
    return make_params().model_copy(update={"samples": SamplesParams(every_evaluations=every)})


def save(workspace: Workspace, step: int) -> Path:
    folder = workspace.work("phase1") / checkpoint_name("step", step)
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_text(f"weights of {step}")
    write_json(folder / MANIFEST, {"files": {}})
    return folder


def wait_for(what: Callable[[], object]) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def spoken(workspace: Workspace) -> list[str]:
    return sorted(folder.name for folder in (workspace.work("phase1") / "samples").glob("*"))


def test_at_the_start_and_at_each_so_many_th_evaluation(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = _Tracker()
    with Sampled(tracker, workspace, with_samples(2), "phase1") as sampled:
        for step in (0, 10, 20, 30, 40):
            sampled.log(step, {"eval/mel_ce": 4.0})
            sampled.log(step, {"disk/free_bytes": 1.0})
            sampled.log(step + 5, {"train/mel_ce": 4.0})
            save(workspace, step)
            if step % 20 == 0:
                wait_for(lambda step=step: workspace.spoken("phase1", step).exists())  # type: ignore[misc]
        wait_for(lambda: "step-00000040" in capsys.readouterr().out)
    assert spoken(workspace) == ["step-00000000", "step-00000020", "step-00000040"]
    assert (workspace.spoken("phase1", 20) / "1.wav").read_text() == "weights of 20"
    assert len(tracker.steps) == 15
    assert not list(workspace.work("phase1").glob(".*"))


def test_a_run_that_goes_on_counts_from_its_beginning_and_says_nothing_twice(workspace: Workspace) -> None:
    workspace.spoken("phase1", 20).mkdir(parents=True)
    save(workspace, 10)
    save(workspace, 20)
    with Sampled(_Tracker(), workspace, with_samples(2), "phase1") as sampled:
        for step in (0, 10, 10, 20):
            sampled.log(step, {"eval/mel_ce": 4.0})
            time.sleep(0.3)
        assert not Path("speaking").exists()
        sampled.log(30, {"eval/mel_ce": 4.0})
        save(workspace, 30)
        sampled.log(40, {"eval/mel_ce": 4.0})
        save(workspace, 40)
        wait_for(lambda: workspace.spoken("phase1", 40).exists())
    assert spoken(workspace) == ["step-00000020", "step-00000040"]


def test_retention_may_delete_the_state_meanwhile_and_keeps_nothing_of_it(workspace: Workspace) -> None:
    Path("wait").touch()
    state = save(workspace, 0)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        wait_for(Path("speaking").exists)
        remove(state)
        sampled.log(10, {"eval/mel_ce": 4.0})  # while one is said, others come: the last of them is next
        sampled.log(20, {"eval/mel_ce": 4.0})
        save(workspace, 20)
        Path("wait").unlink()
        wait_for(lambda: workspace.spoken("phase1", 20).exists())
    assert spoken(workspace) == ["step-00000000", "step-00000020"]
    assert (workspace.spoken("phase1", 0) / "1.wav").read_text() == "weights of 0"
    assert not list(workspace.work("phase1").glob(".*"))


def test_where_a_file_has_one_name_only_the_state_itself_is_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    save(workspace, 0)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        wait_for(lambda: workspace.spoken("phase1", 0).exists())
    assert (workspace.spoken("phase1", 0) / "1.wav").read_text() == "weights of 0"


def test_who_speaks_ends_with_the_training(workspace: Workspace) -> None:
    Path("wait").touch()
    save(workspace, 0)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        wait_for(lambda: Path("speaking").exists() and Path("speaking").read_text())
    assert not psutil.pid_exists(int(Path("speaking").read_text()))
    assert spoken(workspace) == []
    assert not list(workspace.work("phase1").glob(".*"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import sys; print('error: it cannot\\n  a file'); sys.exit(2)",
            "error: it cannot\n    a file\n",
        ),
        ("import sys; sys.exit('ValueError: no sound')", "ValueError: no sound"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; print('a warning', flush=True); os.kill(os.getpid(), 9)", "signal 9 ended it"),
    ],
)
def test_one_that_fails_is_said_and_the_next_is_tried(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, why: str
) -> None:
    monkeypatch.setattr(samples, "_SPEAKING", ("-c", code))
    save(workspace, 0)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        said_at_last(capsys, f"phase1: step 0 could not be heard, and training goes on: {why}")
        monkeypatch.setattr(samples, "_SPEAKING", ("-c", SPEAK))
        sampled.log(10, {"eval/mel_ce": 4.0})
        save(workspace, 10)
        said_at_last(capsys, "phase1: hear step 10: ")
    assert spoken(workspace) == ["step-00000010"]


def test_nobody_speaks_where_nobody_asks(workspace: Workspace) -> None:
    save(workspace, 0)
    tracker = _Tracker()
    with Sampled(tracker, workspace, with_samples(None), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        time.sleep(0.3)
    assert tracker.steps == [0]
    assert not Path("speaking").exists()


def said_at_last(capsys: pytest.CaptureFixture[str], what: str) -> None:
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return what in said

    wait_for(is_said)


def test_saves_come_first_where_the_disk_is_small(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are read hold the room of a state that retention deletes."""
    save(workspace, 0)
    monkeypatch.setattr(samples, "free_bytes", lambda _: 10)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        said_at_last(capsys, "step 0 could not be heard, and training goes on: the disk has 10 B free")
    assert not Path("speaking").exists()


def test_the_training_comes_first_where_memory_is_small(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(workspace, 0)
    monkeypatch.setattr(samples, "all_parameters", lambda *_: 10**15)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        said_at_last(capsys, "of memory, and ")
    assert not Path("speaking").exists()


def test_one_that_hangs_is_ended_and_the_next_is_heard(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(samples, "_MOST_SECONDS", 1.0)
    Path("wait").touch()
    save(workspace, 0)
    with Sampled(_Tracker(), workspace, with_samples(1), "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        said_at_last(capsys, "step 0 could not be heard, and training goes on: it took longer than")
        assert not list(workspace.work("phase1").glob(".*"))
        Path("wait").unlink()
        sampled.log(10, {"eval/mel_ce": 4.0})
        save(workspace, 10)
        said_at_last(capsys, "hear step 10")
    assert spoken(workspace) == ["step-00000010"]


def test_it_speaks_by_the_parameters_of_the_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever params.yaml says by now."""
    monkeypatch.setattr(samples, "_SPEAKING", ("-c", "import sys; open('given', 'w').write(sys.stdin.readline())"))
    params = with_samples(1)
    save(workspace, 0)
    with Sampled(_Tracker(), workspace, params, "phase1") as sampled:
        sampled.log(0, {"eval/mel_ce": 4.0})
        wait_for(lambda: Path("given").exists() and Path("given").read_text().endswith("\n"))
    assert Params.model_validate_json(Path("given").read_text()) == params


def test_what_one_left_that_was_killed_goes(workspace: Workspace) -> None:
    dead = subprocess.run([sys.executable, "-c", LEAVE], check=True, capture_output=True, text=True).stdout.strip()
    assert Path(dead).exists()
    with Sampled(_Tracker(), workspace, with_samples(None), "phase1"):
        pass
    assert not Path(dead).exists()


LEAVE = """
from pathlib import Path
from xtts_finetune.core.files import temporary_name
place = temporary_name(Path("work/phase1/samples/step-00000007"))
place.mkdir(parents=True)
(place / "1.wav").touch()
print(place)
"""
