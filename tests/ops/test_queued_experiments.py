"""A sweep of DVC's queue: each experiment is logged, none is lost, and the one that is taken is registered once."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import tracked
from checkouts import Checkout
from cleaning import clean
from filelock import FileLock

from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace

pytestmark = pytest.mark.slow


RUN = ["train_phase2.lr=2e-3", "train_phase2.schedule=constant"]  # its epochs only say when it stops


@pytest.fixture
def here(finished: Checkout, tmp_path: Path) -> Checkout:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.commit("The first run")
    return checkout


def queue(checkout: Checkout, *settings: str) -> None:
    checkout.run("dvc", "exp", "run", "--queue", *(f"--set-param={setting}" for setting in settings))


def experiments(checkout: Checkout) -> str:
    return checkout.run("xtts-finetune", "experiments").stdout


def table(checkout: Checkout) -> list[list[str]]:
    """Of `experiments`: the cells of each row."""
    said = experiments(checkout).splitlines()
    return [line.split() for line in said[1 : said.index("picture: reports/experiments.svg")]]


def test_the_best_of_it_is_registered_and_the_rest_can_go(here: Checkout) -> None:
    before = (here.root / "reports" / "registration.json").read_bytes()
    queue(here, "train_phase2.lr=2e-3,1e-5", "train_phase2.epochs=2")
    here.run("dvc", "exp", "run", "--run-all", "--jobs=1")
    trained = [run.data.params["lr"] for run in tracked.runs(here)["phase2"]]
    assert sorted(map(float, trained)) == [1e-5, 3e-4, 2e-3]
    assert len(tracked.runs(here)["evaluate"]) == 3
    assert {"samples", "curves.png"} <= set(tracked.artifacts(here, tracked.runs(here)["evaluate"][0]))
    assert len(tracked.versions(here)) == 1
    assert (here.root / "reports" / "registration.json").read_bytes() == before
    assert not list((here.root / "work" / "undelivered").iterdir())

    header, *rows = table(here)
    assert header[1:3] == ["phase2.epochs", "phase2.lr"]
    assert [row[2] for row in rows] == ["0.002", "0.0003", "1e-05"]  # by what they came to: the best first
    assert rows[1][0] == "HEAD"
    here.run("dvc", "exp", "apply", rows[0][0])
    assert "Running stage 'train" not in here.repro()
    assert len(tracked.versions(here)) == 2
    assert len(tracked.runs(here)["evaluate"]) == 3, "the one that was applied is the run that it was"
    here.commit("The best of the sweep")
    assert here.json("reports/registration.json")["version"] == 2

    here.run("dvc", "exp", "remove", "--all-commits")
    clean(here, "--intermediates", "--history", "--yes")
    names = [line for line in clean(here, "--intermediates", "--history").splitlines() if "stays" in line]
    assert not any("experiment" in line for line in names)
    assert "Running stage" not in here.repro()


def test_one_that_is_killed_goes_on_when_it_is_queued_again(here: Checkout) -> None:
    """DVC deletes the copy that it ran in."""
    queue(here, *RUN, "train_phase2.epochs=200")
    running = here.start("dvc", "exp", "run", "--run-all", "--jobs=1")
    states = CheckpointReader(Workspace(here.root).queue.work("phase2"))
    before = here.json("reports/train_phase2.json")["last_step"]  # HEAD's, which lies there at first, to be extended
    while not any(state.step > before for state in states.states()):
        assert running.poll() is None
        time.sleep(0.1)
    said = here.run("xtts-finetune", "status").stdout
    named = re.search(r"^queue      experiment (\S+) trains phase2 \(dvc queue status\)$", said, re.MULTILINE)
    assert named
    assert f"running: {named[1]}; " in experiments(here)
    with pytest.raises(AssertionError, match="is the copy of an experiment of DVC's queue"):
        clean(here, "--intermediates", "--yes")
    holder = read_json(here.root / "work" / "queue" / "phase2.holder")
    os.kill(int(holder["process"].partition("-")[0]), signal.SIGKILL)
    running.communicate()
    assert not Workspace(here.root).copies()
    step = states.states()[-1].step
    assert f"at step {step}" in here.run("xtts-finetune", "status").stdout.partition("parked runs")[2]
    queue(here, *RUN, "train_phase2.epochs=2")
    here.run("dvc", "exp", "run", "--run-all", "--jobs=1")
    assert len(table(here)) == 3
    resumed = [
        line for line in (here.root / "work" / "queue" / "journal.jsonl").read_text().splitlines() if "resumed" in line
    ]
    assert [json.loads(line)["step"] for line in resumed] == [step]


def test_one_that_fails_at_its_end_keeps_what_it_trained(here: Checkout) -> None:
    """Nobody names it in DVC's cache: its copy is gone, and git names an experiment when all of it is done."""
    here.change_params(lambda params: params["notify"].update(command="cat >> told.txt"))
    here.commit("Tell me")
    its = Workspace(here.root).queue
    its.models_lock.parent.mkdir(parents=True)
    queue(here, "train_phase2.lr=2e-3")
    with FileLock(its.models_lock):  # evaluate is refused
        said = here.run("dvc", "exp", "run", "--run-all", "--jobs=1")
    assert "another process is at work here" in said.stdout + said.stderr
    assert "could not be written" not in said.stdout + said.stderr
    assert (its.work("phase2") / "DONE").exists()
    clean(here, "--intermediates", "--history", "--yes")
    assert re.search(r"^failed, or stopped .*: (\S+); dvc queue logs \1 says why, ", experiments(here), re.MULTILINE)
    queue(here, "train_phase2.lr=2e-3")
    assert re.search(r"^queued: \S+; dvc queue start runs them", experiments(here), re.MULTILINE)
    here.run("dvc", "exp", "run", "--run-all", "--jobs=1")
    happenings = map(json.loads, (here.root / "work" / "queue" / "journal.jsonl").read_text().splitlines())
    assert [each["stage"] for each in happenings if each["kind"] == "started"] == ["phase2"], "trained once"
    assert [row[0] for row in table(here)[2:]] == ["HEAD"]
    assert not its.work("phase2").exists()
    told = (here.root / "told.txt").read_text(encoding="utf-8")
    assert f"experiment {table(here)[1][0]}: all stages are done" in told
    assert "\nstate " in told
