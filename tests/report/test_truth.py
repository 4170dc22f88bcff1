"""What a report says at odd moments: each is one that a user met, and in which it was not true."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import Checkout
from making import workspaces

from xtts_finetune.checkpoints.lock import locked
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import MODEL_CARD, Workspace
from xtts_finetune.diskspace import budget
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.dvcio.command import NEXT, running_stage
from xtts_finetune.report import gathering, room
from xtts_finetune.report.content import Report, Way
from xtts_finetune.report.gathering import gather
from xtts_finetune.report.markdown import markdown_of
from xtts_finetune.report.origin import OURS
from xtts_finetune.report.text import state_in_words, text_of
from xtts_finetune.report.watch import _lines
from xtts_finetune.tracking.journal import Happening, write_down
from xtts_finetune.tracking.pace import pace_of, remember_pace

SECOND = 1000  # the milliseconds of a curve's rows


def rows(first: int, last: int, start: int, every: int = 5) -> list[dict[str, Any]]:
    """Steps of a second, of which every fifth was evaluated."""
    found = list[dict[str, Any]]()
    for step in range(first, last + 1):
        row = {"step": step, "epoch": 0, "time": start + SECOND * (step - first), "train/mel_ce": 4.0}
        found.append(row if step % every else {**row, "eval/mel_ce": 5.0 - step / 100, "eval/text_ce": 3.0})
    return found


def test_a_night_in_which_it_was_stopped_is_no_training(fresh: Checkout) -> None:
    """It went on ten hours later, and took half a minute to begin; there is no evaluation before it, and one after."""
    workspace, night = Workspace(fresh.root), 36_000.0
    curve = [*rows(0, 8, 0, every=20), *rows(9, 20, int(SECOND * (night + 30)), every=20)]
    trained(fresh, curve)
    slept = pace_of(workspace, "phase1")
    write_down(workspace, Happening(kind="resumed", stage="phase1", time=night, step=8))
    assert pace_of(workspace, "phase1") == 1.0
    remember_pace(workspace, "phase1", curve)
    assert read_json(workspace.pace) == {"phase1": 1.0}
    assert slept
    assert slept > 1_000


def test_evaluations_at_uneven_steps_all_take_their_time(fresh: Checkout) -> None:
    """Steps of a second, evaluations of four; a night in which the machine slept counts for nothing."""
    workspace, time = Workspace(fresh.root), 0
    curve = []
    for step in range(1, 101):
        time += SECOND
        row: dict[str, Any] = {"step": step, "epoch": 0, "time": time, "train/mel_ce": 4.0}
        if step % 25 == 0 or step % 31 == 0:
            time += 4 * SECOND
            row |= {"time": time, "eval/mel_ce": 4.0}
        curve.append(row)
    trained(fresh, curve)
    evaluated = [row for row in curve if "eval/mel_ce" in row]
    true = (evaluated[-1]["time"] - evaluated[0]["time"]) / SECOND / (evaluated[-1]["step"] - evaluated[0]["step"])
    assert pace_of(workspace, "phase1") == pytest.approx(true)
    slept = [{**row, "time": row["time"] + (36_000 * SECOND if row["step"] > 60 else 0)} for row in curve]
    (fresh.root / "work" / "phase1" / "curve.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in slept))
    assert pace_of(workspace, "phase1") == pytest.approx(true, rel=0.1)


def test_a_row_that_comes_late_takes_no_step_back(fresh: Checkout) -> None:
    """What a save took is written when it is done: behind the rows of later steps."""
    trained(fresh, [*rows(0, 22, 0), {"step": 20, "epoch": 0, "time": 23 * SECOND, "disk/free_bytes": 1e9}])
    assert gather(Workspace(fresh.root)).phases[0].step == 22


def trained(checkout: Checkout, curve: list[dict[str, Any]], state: int | None = None) -> None:
    """Phase 1, so far; nobody is at it."""
    work = checkout.root / "work" / "phase1"
    work.mkdir(parents=True)
    (work / "curve.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in curve), encoding="utf-8")
    if state is not None:
        (work / f"step-{state:08d}").mkdir()
        write_json(work / f"step-{state:08d}" / "manifest.json", {"files": {}})


def with_epochs(curve: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    return [{**row, "epoch": row["step"] // steps} for row in curve]


def test_what_is_left_is_counted_from_where_it_goes_on(fresh: Checkout) -> None:
    """After a kill it goes on from the state, though it was trained, and evaluated, further."""
    curve = with_epochs(rows(0, 32, 0), 10)
    trained(fresh, curve, state=28)
    [phase1, _] = gather(Workspace(fresh.root)).phases
    assert (phase1.state, phase1.step, phase1.resume_step) == ("stopped", 32, 28)
    assert phase1.last_step
    assert phase1.prospect
    left = phase1.last_step - 28
    assert any(f"{left:,} steps" in line for line in phase1.prospect.lines), phase1.prospect.lines


def test_the_best_of_a_phase_that_runs_is_told(fresh: Checkout) -> None:
    curve = [*rows(0, 20, 0), {**rows(25, 25, 30 * SECOND)[0], "eval/mel_ce": 6.0}]
    trained(fresh, curve, state=25)
    assert "eval Mel CE 6.000 at step 25, best 4.800 at step 20" in text_of(gather(Workspace(fresh.root)))


def test_the_base_is_told_while_phase_1_trains(fresh: Checkout) -> None:
    trained(fresh, rows(0, 20, 0), state=20)
    report = gather(Workspace(fresh.root))
    assert report.base
    assert (report.base.step, report.base.mel_ce) == (0, 5.0)
    assert "\nbase             5.000          3.000      0.0300              0\n" in text_of(report)


def test_epochs_are_told_in_parts(fresh: Checkout) -> None:
    """By the planned last step, until two epochs have ended."""
    fresh.change_params(lambda params: params["train_phase1"].update(epochs=4))
    workspace = Workspace(fresh.root)
    trained(fresh, with_epochs(rows(0, 15, 0), 20))
    assert [each.epoch for each in gather(workspace).phases[0].evaluations] == [0, 0, 0, 0], "nobody knows yet"
    write_down(workspace, Happening(kind="started", stage="phase1", time=1.0, step=0))
    write_down(workspace, Happening(kind="planned", stage="phase1", time=1.0, step=80, epochs=4))
    fresh.change_params(lambda params: params["train_phase1"].update(epochs=8))  # not with which it was planned
    with locked(workspace.work("phase1")):
        assert gather(workspace).phases[0].last_step == 80, "as it was begun"
    report = gather(workspace)
    assert report.phases[0].last_step == 160, "as it goes on"
    assert [each.epoch for each in report.phases[0].evaluations] == [0, 0.25, 0.5, 0.75]
    assert "\n        15    0.75 " in text_of(report)
    whole = with_epochs(rows(0, 45, 0), 20)
    (fresh.root / "work" / "phase1" / "curve.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in whole))
    told = [each.epoch for each in gather(workspace).phases[0].evaluations]
    assert told == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25]


def test_other_sentences_have_yet_to_be_said(copied: Checkout) -> None:
    copied.change_params(lambda params: params["evaluate"].update(sentences=["Quite another one."]))
    report = gather(Workspace(copied.root))
    assert state_in_words(report) == "trained, and yet to be evaluated"
    assert "dvc repro" in [each.command for each in report.next]


def test_without_recordings_what_brings_them_is_proposed(fresh: Checkout) -> None:
    workspace = Workspace(fresh.root)
    assert [each.command for each in gather(workspace).next] == ["python scripts/bootstrap_data.py"]
    cache = Cache(workspace)
    clip = 32 * "a"
    cache.path(clip).parent.mkdir(parents=True)
    cache.path(clip).touch()
    entry = cache.add({"metadata.csv": clip})
    out = {"outs": [{**entry, "path": "data", "hash": "md5"}]}
    (fresh.root / "data.dvc").write_text(yaml.safe_dump(out), encoding="utf-8")
    assert [each.command for each in gather(workspace).next] == ["dvc checkout data", "dvc repro"]
    cache.path(clip).unlink()
    assert [each.command for each in gather(workspace).next] == ["python scripts/bootstrap_data.py"]
    workspace.data.mkdir()
    assert [each.command for each in gather(workspace).next] == ["dvc repro"]


def test_what_an_experiment_left_is_not_said_to_be_registered(copied: Checkout) -> None:
    """`dvc exp apply` brings its models; the receipt tells of a version before."""
    receipt = copied.root / "reports" / "registration.json"
    told_before = read_json(receipt)
    assert gather(Workspace(copied.root)).state == "evaluated"
    write_json(receipt, {**told_before, "model_sha256": 64 * "a"})
    report = gather(Workspace(copied.root))
    assert "is of another run: those weights are not in models/" in report.registered
    assert state_in_words(report) == "trained, and yet to be evaluated"
    assert report.next[0].command == "dvc repro"


def test_a_run_that_comes_back_from_the_cache_is_told_alone(copied: Checkout) -> None:
    """Another took its place, was stopped at once, and the parameters were set back."""
    workspace = Workspace(copied.root)
    state = max(workspace.checkpoints("phase1").glob("step-*"))
    trained(copied, rows(0, 6, 0))
    other = Path(shutil.copytree(state, workspace.work("phase1") / state.name)) / "state.json"
    said, manifest = read_json(other), other.with_name("manifest.json")
    for file in (other, manifest):
        file.chmod(0o644)
    write_json(other, {**said, "trajectory": {**said["trajectory"], "train_phase1.lr": 0.5}})
    files = {
        **read_json(manifest)["files"],
        "state.json": {"bytes": other.stat().st_size, "sha256": sha256_file(other)},
    }
    write_json(manifest, {"files": files})
    for folder in (workspace.model("phase1"), workspace.checkpoints("phase1")):
        shutil.rmtree(folder)
    workspace.metrics("phase1").unlink()
    workspace.stopped.write_text("phase1 is saved at step 6; run dvc repro again to resume", encoding="utf-8")
    write_down(workspace, Happening(kind="stopped", stage="phase1", time=2.0, step=6))
    report = gather(workspace)
    assert report.phases[0].state == "in DVC's cache"
    assert report.stopped is None
    assert not any("parks it" in remark for remark in report.remarks)


def test_while_it_is_trained_dvc_is_not_asked(copied: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes seconds, at every look."""
    workspace = Workspace(copied.root)
    shutil.rmtree(workspace.model("phase2"))
    monkeypatch.setattr(gathering, "coming_back", lambda _: pytest.fail("it was asked"))
    with locked(workspace.work("phase1")):
        gather(workspace)
    locked_by(copied, "models/phase2")
    gather(workspace)


def test_a_run_that_dvc_took_away_for_a_stage_that_did_not_begin_is_not_lost(copied: Checkout) -> None:
    """As after a refusal for want of room: its reports are gone, too."""
    workspace = Workspace(copied.root)
    copied.change_params(lambda params: params["train_phase2"].update(lr=1e-7))
    shutil.rmtree(workspace.model("phase2"))
    workspace.metrics("phase2").unlink()
    said = "the run before is in DVC's cache: dvc checkout models/phase2 brings its weights back"
    assert said in text_of(gather(workspace))
    copied.run("dvc", "checkout", "models/phase2")
    assert said not in text_of(gather(workspace))


def locked_by(checkout: Checkout, place: str, command: str = "/venv/bin/dvc repro", pid: int | None = None) -> None:
    """DVC's list, of a command that writes there."""
    entry = {"pid": os.getpid() if pid is None else pid, "cmd": command}
    file = checkout.root / ".dvc" / "tmp" / "rwlock"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"write": {str(checkout.root.resolve() / place): entry}}), encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("base/checked.json", "check runs now"),
        ("prepared", "prepare runs now"),
        ("models/phase1", "phase1 is done, and DVC stores what it left"),
        ("models/phase2", "phase2 is done, and DVC stores what it left"),
        ("reports/evaluation.json", "evaluate runs now"),
    ],
)
def test_while_dvc_runs_a_stage_it_is_not_proposed_again(copied: Checkout, place: str, words: str) -> None:
    locked_by(copied, place)
    report = gather(Workspace(copied.root))
    assert words in text_of(report)
    assert [each.command for each in report.next] == ["xtts-finetune status --watch"]
    assert words.capitalize() in markdown_of(report, None)


@pytest.mark.parametrize(
    "left",
    [
        lambda checkout: locked_by(checkout, "models/phase1", pid=2**22 - 1),
        lambda checkout: locked_by(checkout, "models/phase1", pid=2**80),
        lambda checkout: locked_by(checkout, "models/phase1", pid=-1),
        lambda checkout: locked_by(checkout, "models/phase1", "/venv/bin/dvc checkout"),
        lambda checkout: locked_by(checkout, "models/phase1", "/venv/bin/dvc exp apply run"),
        lambda checkout: (checkout.root / ".dvc" / "tmp" / "rwlock").write_text('{"write": ['),
        lambda checkout: (checkout.root / ".dvc" / "tmp" / "rwlock").write_text('{"write": [1]}'),
    ],
    ids=["killed", "no number", "none at all", "checkout", "an argument", "cut short", "no list"],
)
def test_nothing_runs_by_a_list_that_was_left(copied: Checkout, left: Callable[[Checkout], object]) -> None:
    left(copied)
    assert running_stage(Workspace(copied.root)) is None


def test_nor_by_the_number_that_another_program_has_by_now(copied: Checkout) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        locked_by(copied, "models/phase1", pid=other.pid)
        assert running_stage(Workspace(copied.root)) is None
    finally:
        other.kill()
        other.wait()


def test_between_two_stages_dvc_is_waited_for(copied: Checkout, tmp_path: Path) -> None:
    """It was said that not all was trained, and `dvc repro` was proposed, which DVC refuses."""
    workspace = Workspace(copied.root)
    (copied.root / "reports" / "registration.json").unlink()
    lock = copied.root / ".dvc" / "tmp" / "lock"
    lock.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "dvc", "repro"]
    for place, expected in (copied.root, NEXT), (tmp_path, None):
        alive = subprocess.Popen(command, cwd=place, stdin=subprocess.PIPE)
        try:
            lock.write_text(f" {alive.pid}\n")
            assert running_stage(workspace) == expected
            if expected:
                report = gather(workspace)
                assert state_in_words(report) == "dvc repro runs now"
                assert report.remarks == ["dvc repro runs: wait for it"]
        finally:
            alive.communicate()
    assert running_stage(workspace) is None, "it is gone"
    for left in ("", "x", "9" * 30, "-1"):
        lock.write_text(left)
        assert running_stage(workspace) is None


@pytest.mark.slow
def test_dvc_says_what_it_runs(untrained: Checkout) -> None:
    """DVC's own list, and not one that a test made."""
    probe = "from pathlib import Path; from xtts_finetune.core.layout import Workspace; "
    probe += (
        "from xtts_finetune.dvcio.command import running_stage; print('RUNS', running_stage(Workspace(Path.cwd())))"
    )
    script = untrained.root / "scripts" / "stage"
    script.write_text(f'#!/bin/sh\n{shutil.which("python")} -c "{probe}"\nexit 1\n', encoding="utf-8")
    script.chmod(0o755)
    done = untrained.run("dvc", "repro", "--force", "--single-item", "train_phase1", code=255)
    assert "RUNS train_phase1" in done.stdout + done.stderr


def test_the_phase_after_one_that_was_trained_again_is_not_shown(copied: Checkout) -> None:
    """In a clone git's figures of phase 2 lie there until it begins."""
    workspace = Workspace(copied.root)
    shutil.rmtree(workspace.model("phase2"))
    before = gather(workspace)
    locked_by(copied, "models/phase1")
    report = gather(workspace)
    assert [phase.state for phase in before.phases] == ["done", "done"], "it can be brought back as it is"
    assert [phase.state for phase in report.phases] == ["done", "not started"]
    assert report.whose == OURS
    lock = workspace.dvc_lock
    (copied.root / ".dvc" / "tmp" / "rwlock").unlink()
    entries = yaml.safe_load(lock.read_text(encoding="utf-8"))
    [used] = [dep for dep in entries["stages"]["train_phase2"]["deps"] if dep["path"] == "models/phase1"]
    used["md5"] = f"{32 * 'a'}.dir"
    lock.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    report = gather(workspace)
    assert [phase.state for phase in report.phases] == ["done", "not started"]
    assert state_in_words(report) == "phase1 is done, and phase2 has not begun"


def test_a_phase_2_is_of_the_phase_1_that_it_began_with(copied: Checkout) -> None:
    """DVC was killed before it wrote down that phase 2 ran on this phase 1; then, that phase 1 was trained again."""
    workspace = Workspace(copied.root)
    lock = yaml.safe_load(workspace.dvc_lock.read_text(encoding="utf-8"))
    [used] = [dep for dep in lock["stages"]["train_phase2"]["deps"] if dep["path"] == "models/phase1"]
    used["md5"] = f"{32 * 'a'}.dir"
    workspace.dvc_lock.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    report = gather(workspace)
    assert [phase.state for phase in report.phases] == ["done", "done"]
    assert report.whose == OURS
    card = workspace.model("phase1") / MODEL_CARD
    its, other = read_json(card), {**read_json(card), "sha256": 64 * "0"}
    write_json(card, other)
    report = gather(workspace)
    assert [phase.state for phase in report.phases] == ["done", "not started"], "figures may be alike by chance"
    assert state_in_words(report) == "phase1 is done, and phase2 has not begun"
    shutil.rmtree(workspace.checkpoints("phase2"))
    assert [phase.state for phase in gather(workspace).phases] == ["done", "done"], "by figures, where states are gone"
    write_json(card, its)
    for file in (workspace.metrics("phase2"), workspace.model("phase2") / MODEL_CARD):
        figures = read_json(file)
        write_json(file, {**figures, "start": {**figures["start"], "mel_ce": figures["start"]["mel_ce"] + 0.1}})
    assert [phase.state for phase in gather(workspace).phases] == ["done", "not started"]


def test_a_run_that_has_ended_says_nothing_of_the_next(fresh: Checkout) -> None:
    """It began "at step 800 of 3,000"."""
    workspace = Workspace(fresh.root)
    for number, (kind, step) in enumerate((("resumed", 800), ("planned", 3_000), ("ended", None))):
        write_down(workspace, Happening(kind=kind, stage="phase1", time=number, step=step, epochs=3))
    with locked(workspace.work("phase1")):
        [phase1, _] = gather(workspace).phases
    assert (phase1.state, phase1.step, phase1.last_step, phase1.seconds_left) == ("training", None, None, None)


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        ({"pending": True}, "trained and evaluated"),
        ({"registered": False, "queue": True}, "trained and evaluated"),
        ({"name": "another"}, "trained and evaluated"),
        ({}, "trained, evaluated and registered"),
    ],
)
def test_registered_is_said_of_what_is(copied: Checkout, receipt: dict[str, Any], words: str) -> None:
    workspace = Workspace(copied.root)
    known = read_json(workspace.registration)
    write_json(workspace.registration, {**known, **receipt} if receipt.keys() <= {"name"} else receipt)
    assert state_in_words(gather(workspace)) == words


def test_where_nothing_was_trained_nothing_is_said_to_lie_there(copied: Checkout) -> None:
    workspace = Workspace(copied.root)
    for folder in (workspace.model("phase1").parent, workspace.prepared, workspace.checkpoints("phase1").parent):
        shutil.rmtree(folder)
    workspace.dataset_report.unlink()
    report = gather(workspace)
    assert report.state == "nothing prepared"
    assert report.whose
    assert "nothing was trained in this checkout" in report.whose


def test_a_target_is_said_alike_wherever_it_is_shown(copied: Checkout) -> None:
    def two(params: dict[str, Any]) -> None:
        params["train_phase1"]["target_mel_ce"] = 0.5
        params["train_phase2"]["target_mel_ce"] = 9.5

    copied.change_params(two)
    report = gather(Workspace(copied.root))
    text, page = text_of(report), markdown_of(report, None)
    assert all(phase.best for phase in report.phases)
    first, second = (phase.best.mel_ce for phase in report.phases if phase.best)
    for words in (f"its best is {first - 0.5:.3f} above it", f"reached: its best is {9.5 - second:.3f} below it"):
        assert words in text
        assert words in page


@pytest.fixture
def stopped(copied: Checkout, tmp_path: Path) -> Checkout:
    """Of phase 1 there is a state, and no end."""
    state = max((copied.root / "checkpoints" / "phase1").glob("step-*"))
    kept = Path(shutil.copytree(state, tmp_path / state.name))
    copied.forget_training()
    trained(copied, rows(0, 8, 0))
    kept.rename(copied.root / "work" / "phase1" / state.name)
    return copied


def test_a_run_of_other_settings_is_not_said_to_go_on(stopped: Checkout) -> None:
    workspace = Workspace(stopped.root)
    assert not any("begun with" in remark for remark in gather(workspace).remarks)
    before = yaml.safe_load(workspace.params.read_text(encoding="utf-8"))["train_phase1"]["lr"]
    stopped.change_params(lambda params: params["train_phase1"].update(lr=1e-7))
    said = " ".join(gather(workspace).remarks)
    assert f"phase1 was begun with lr {before}: dvc repro parks it and begins anew; set them back to go on" in said


def test_while_it_is_loaded_again_it_is_said_to_go_on(stopped: Checkout) -> None:
    locked_by(stopped, "models/phase1", "/venv/bin/dvc exp run")
    report = gather(Workspace(stopped.root))
    assert state_in_words(report) == f"phase1 goes on from step {report.phases[0].resume_step}"


FIGURES = {"eval": {"mel_ce": 4.0, "text_ce": 3.0}, "start": {"mel_ce": 5.0, "text_ce": 3.0}}


def test_what_lies_beside_a_finished_run_is_not_said_to_be_parked_by_the_next(stopped: Checkout) -> None:
    """A run was stopped, and DVC brought that of before back from its cache."""
    workspace = Workspace(stopped.root)
    stopped.change_params(lambda params: params["train_phase1"].update(lr=1e-7))
    write_json(workspace.metrics("phase1"), {"step": 8, "last_step": 8, "stopped": "x", "skipped_steps": 0, **FIGURES})
    assert not any("begun with" in remark for remark in gather(workspace).remarks)


@pytest.mark.parametrize("left", [lambda file: file.mkdir(), lambda file: file.write_bytes(b"\xff\n{\n")])
def test_no_training_fails_of_its_journal(fresh: Checkout, left: Callable[[Path], object]) -> None:
    workspace = Workspace(fresh.root)
    workspace.journal.parent.mkdir(exist_ok=True)
    left(workspace.journal)
    remember_pace(workspace, "phase1", rows(0, 9, 0))
    assert read_json(workspace.pace) == {"phase1": 1.0}


def test_one_that_is_trained_meanwhile_keeps_what_it_began_with(stopped: Checkout) -> None:
    workspace = Workspace(stopped.root)
    stopped.change_params(lambda params: params["train_phase1"].update(lr=1e-7))
    with locked(workspace.work("phase1")):
        said = " ".join(gather(workspace).remarks)
    assert "is trained with that to its end, whatever params.yaml says by now" in said


def test_what_does_not_fit_is_not_proposed(fresh: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh.root / "data").mkdir()

    def gathered(ways: list[Way]) -> Report:
        room = gathering.room

        def full(*arguments: Any) -> Any:
            lacks = {"next_stage": "phase1", "needed_bytes": 9_000_000, "missing_bytes": 4_000_000, "full_disk": "/"}
            return room(*arguments).model_copy(update={**lacks, "ways": ways})

        with monkeypatch.context() as patch:
            patch.setattr(gathering, "room", full)
            return gather(Workspace(fresh.root))

    little = Way(command="xtts-finetune clean --intermediates --yes", frees_bytes=16_000)
    enough = Way(command="xtts-finetune clean --best-only --yes", frees_bytes=5_000_000)
    shown = [each.command for each in gathered([little, enough]).next]
    assert shown == ["xtts-finetune clean --best-only", "dvc repro"], "nothing goes before it was seen"
    [left] = gathered([little]).next
    assert left.command == "xtts-finetune disk"
    assert "phase1 lacks 4 MB" in left.why


def test_a_target_that_it_begins_below_was_not_reached_by_training(fresh: Checkout) -> None:
    fresh.change_params(lambda params: params["train_phase1"].update(target_mel_ce=9.0))
    trained(fresh, rows(0, 30, 0), state=30)
    prospect = gather(Workspace(fresh.root)).phases[0].prospect
    assert prospect
    assert "it begins below it, with 5.000" in prospect.lines[0]


def test_a_kill_leaves_no_word_and_that_is_said(fresh: Checkout) -> None:
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    write_down(workspace, Happening(kind="started", stage="phase1", time=1.0, step=0))
    assert "phase1 ended without a word: it was killed" in text_of(gather(workspace))
    write_down(workspace, Happening(kind="stopped", stage="phase1", time=2.0, step=20))
    assert "without a word" not in text_of(gather(workspace))
    write_down(workspace, Happening(kind="resumed", stage="phase1", time=3.0, step=20))
    with locked(workspace.work("phase1")):
        assert "without a word" not in text_of(gather(workspace))
    workspace.stopped.write_text("the disk is full", encoding="utf-8")
    assert "without a word" not in text_of(gather(workspace))


def test_on_a_full_disk_the_figures_are_said_to_stand_still(fresh: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    said = "the disk is full: training goes on in memory"
    with locked(workspace.work("phase1")):
        assert said not in text_of(gather(workspace))
        monkeypatch.setattr(room, "free_bytes", lambda _: 4096)
        assert said in text_of(gather(workspace))
    assert said not in text_of(gather(workspace)), "nobody trains"


def test_a_clock_that_was_set_back_makes_no_kill_of_a_stop(fresh: Checkout) -> None:
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    for kind, time in ("resumed", 1000.0), ("stopped", 900.0):
        write_down(workspace, Happening(kind=kind, stage="phase1", time=time, step=20))  # type: ignore[arg-type]
    assert "without a word" not in text_of(gather(workspace))


def test_what_another_machine_trains_was_not_killed(fresh: Checkout) -> None:
    """On a shared disk: whether it lives is not known here."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    write_down(workspace, Happening(kind="started", stage="phase1", time=1.0, step=0))
    holder = {"process": "123-456-0123abcd", "host": "gpu-2", "who": "another trainer"}
    write_json(workspace.work("phase1").with_name("phase1.holder"), holder)
    assert "without a word" not in text_of(gather(workspace))


def test_the_end_is_told_before_an_epoch_is_over(fresh: Checkout) -> None:
    """As the trainer said: 100,000 clips make a first epoch of hours."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    assert gather(workspace).phases[0].last_step is None
    for kind, step in ("started", 0), ("planned", 402):
        write_down(workspace, Happening(kind=kind, stage="phase1", time=1.0, step=step))  # type: ignore[arg-type]
    with locked(workspace.work("phase1")):
        report = gather(workspace)
    assert report.phases[0].last_step == 402
    assert "at step 20 of 402 (5 % of phase1), at most 6 min left" in state_in_words(report)
    write_down(workspace, Happening(kind="stopped", stage="phase1", time=2.0, step=20))
    assert gather(workspace).phases[0].last_step == 402
    write_down(workspace, Happening(kind="started", stage="phase1", time=3.0, step=0))
    assert gather(workspace).phases[0].last_step is None, "it was another run's"


def test_a_trainer_that_was_left_behind_is_said_to_be(fresh: Checkout) -> None:
    """Its `dvc repro` was killed: nothing goes on behind it."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 20, 0), state=20)
    with locked(workspace.work("phase1")):
        assert "its dvc repro is gone" in " ".join(gather(workspace).remarks)
        assert "its dvc repro is gone" not in " ".join(gather(workspace, is_stage=True).remarks)


def test_what_evaluate_needs_is_said_and_made_room_for(copied: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused on a full disk, and `dvc repro` would be refused again."""
    (copied.root / "reports" / "registration.json").unlink()
    assert gather(Workspace(copied.root)).disk.next_stage == "evaluate"
    monkeypatch.setattr(budget, "free_bytes", lambda _: 0)
    report = gather(Workspace(copied.root))
    assert report.disk.missing_bytes > 0
    assert "evaluate lacks" in report.next[0].why
    assert report.next[0].command != "dvc repro"


def test_a_list_of_locks_that_dvc_cannot_read_comes_first(copied: Checkout) -> None:
    """As a full disk leaves it: every command of DVC fails until it is gone."""
    (copied.root / "reports" / "registration.json").unlink()
    locks = copied.root / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(parents=True, exist_ok=True)
    locks.write_text('{"/some/where": ', encoding="utf-8")
    report = gather(Workspace(copied.root))
    assert report.next == []
    assert "delete it, when no other dvc runs here" in " ".join(report.remarks)
    locks.write_text("{}", encoding="utf-8")
    assert [each.command for each in gather(Workspace(copied.root)).next] == ["dvc repro"]


def test_one_that_goes_on_is_where_it_goes_on(fresh: Checkout) -> None:
    """What was trained behind its last state is trained again."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 36, 0), state=30)
    write_down(workspace, Happening(kind="resumed", stage="phase1", time=100.0, step=30))
    assert gather(workspace).phases[0].step == 36, "nobody is at it"
    with locked(workspace.work("phase1")):
        assert gather(workspace).phases[0].step == 30
        with workspace.running_curve("phase1").open("a") as curve:
            curve.write(json.dumps({"step": 31, "epoch": 0, "time": 101 * SECOND, "train/mel_ce": 4.0}) + "\n")
        assert gather(workspace).phases[0].step == 36
        workspace.running_curve("phase1").write_text(json.dumps(rows(31, 31, 101 * SECOND)[0]) + "\n")
        assert gather(workspace).phases[0].step == 31


def test_while_dvc_begins_or_ends_with_a_phase_it_is_not_said_to_go_on_by_itself(
    stopped: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(stopped.root)
    monkeypatch.setattr(gathering, "running_stage", lambda _: "train_phase1")
    begins = gather(workspace)
    assert begins.phases[0].state == "training"
    assert begins.remarks == ["train_phase1 runs: wait for it"]
    workspace.stopped.write_text("phase1 is saved at step 7", encoding="utf-8")
    ends = gather(workspace)
    assert state_in_words(ends) == "phase1 has stopped, and DVC ends"
    assert ends.remarks == ["DVC ends: wait for it"]
    assert ends.phases[0].state == "stopped"


def test_what_is_to_be_parked_is_not_said_to_be(stopped: Checkout) -> None:
    stopped.change_params(lambda params: params["train_phase1"].update(lr=1e-7))
    report = gather(Workspace(stopped.root))
    assert report.parked == []
    assert "dvc repro parks it and begins anew" in " ".join(report.remarks)


@pytest.mark.parametrize(
    ("place", "words"),
    [("prepared", "is at prepare"), ("models/phase1", "trains phase1"), (None, "begins, or ends")],
)
def test_what_the_queue_does_is_said(stopped: Checkout, place: str | None, words: str) -> None:
    """Also where nothing trains: what an experiment has trained before is not parked."""
    workspace = Workspace(stopped.root)
    work, left = workspace.work("phase1"), workspace.queue.work("phase1")
    left.parent.mkdir(parents=True, exist_ok=True)
    work.rename(left)
    assert "parked phase1" in text_of(gather(workspace))
    copy = stopped.root / ".dvc" / "tmp" / "exps" / "tmp1"
    writers = {str(copy.resolve() / place): {"pid": os.getpid(), "cmd": "dvc exp exec-run"}} if place else {}
    (copy / ".dvc" / "tmp").mkdir(parents=True)
    write_json(copy / ".dvc" / "tmp" / "rwlock", {"write": writers})
    workspaces.in_queue(stopped, "on-its-way", copy=str(copy))
    report = gather(workspace)
    assert f"queue      experiment on-its-way {words} (dvc queue status)" in text_of(report)
    assert f"experiment on-its-way {words}" in next(_lines(workspace))
    assert "parked phase1" not in text_of(report)


def test_the_table_of_experiments_is_led_to_where_there_are_some(copied: Checkout) -> None:
    def proposed() -> list[str]:
        return [each.why for each in gather(Workspace(copied.root)).next if each.command == "xtts-finetune experiments"]

    assert proposed() == []
    for name, said in ("first", "the experiment"), ("second", "2 experiments"):
        copied.run("git", "update-ref", f"refs/exps/ab/cdef/{name}", "HEAD")
        assert proposed() == [f"compares {said} with this, the best first"]


def test_what_ends_a_phase_is_as_its_trainer_has_it(fresh: Checkout) -> None:
    """It said "reached" of a target that was set while it trained, and trained on to its own."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 12, 0))
    write_down(workspace, Happening(kind="started", stage="phase1", time=1.0, step=0))
    write_down(workspace, Happening(kind="planned", stage="phase1", time=2.0, step=40, epochs=2, target_mel_ce=4.5))
    fresh.change_params(lambda params: params["train_phase1"].update(target_mel_ce=9.0, epochs=7))
    with locked(workspace.work("phase1")):
        report = gather(workspace)
        fresh.change_params(lambda params: params["train_phase1"].update(target_mel_ce=4.5, epochs=2))
        alike = gather(workspace)
    assert report.phases[0].target_mel_ce == report.target_mel_ce["phase1"] == 4.5
    said = "phase1 was begun with epochs 2, target_mel_ce 4.5, and is trained with that to its end"
    assert any(remark.startswith(said) for remark in report.remarks)
    assert not any("was begun with" in remark for remark in alike.remarks)


def test_a_run_that_would_end_as_it_is_is_not_said_to_go_on(fresh: Checkout) -> None:
    """Its target was set to what it had come to already."""
    workspace = Workspace(fresh.root)
    trained(fresh, rows(0, 12, 0), state=12)
    [before, _] = gather(workspace).phases
    assert before.why == "dvc repro goes on from step 12"
    fresh.change_params(lambda params: params["train_phase1"].update(target_mel_ce=4.97))
    [phase1, _] = gather(workspace).phases
    assert phase1.why == "dvc repro ends it as it is, without a step (target Mel CE 4.97 reached and held)"


def test_a_run_that_is_to_make_way_is_told_once(stopped: Checkout) -> None:
    """It was said to resume, twice, and to begin anew."""
    stopped.change_params(lambda params: params["train_phase1"].update(lr=1e-7))
    report = gather(Workspace(stopped.root))
    assert report.stopped is None
    assert [each.why for each in report.next] == ["parks what was begun, and begins anew"]
    assert "set them back to go on" in " ".join(report.remarks)


def test_a_model_that_is_gone_is_not_called_another_run(copied: Checkout) -> None:
    workspace = Workspace(copied.root)
    shutil.rmtree(workspace.model("phase2"))
    whose = gather(workspace).whose
    assert whose
    assert whose.startswith("of models/phase2, which is gone: bring back")
