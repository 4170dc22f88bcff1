"""`xtts-finetune experiments`: what a sweep came to, by what git has of it."""

import json
import os
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from making import workspaces

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.report.experiments import experiment_lines


@pytest.fixture
def here(tmp_path: Path) -> Checkout:
    checkout = workspaces.repository(tmp_path / "checkout")
    write(checkout, 3.5, lr=3e-4)
    checkout.commit("The first run")
    return checkout


def write(checkout: Checkout, mel_ce: float, clips: str = "a", **settings: object) -> None:
    """A run that came to this eval Mel CE in phase 2, with these settings of it."""
    at = Workspace(checkout.root)
    at.reports.mkdir(exist_ok=True)
    params = {"seed": 1, "train_phase2": settings, "notify": {"command": f"tell --password {mel_ce}"}}
    text = yaml.safe_dump(params).replace("1.0e-05", "1e-05")  # as DVC writes it, which YAML 1.1 takes for a text
    at.params.write_text(text, encoding="utf-8")
    outs = [{"path": "reports/dataset.json", "md5": clips * 32}]
    at.dvc_lock.write_text(yaml.safe_dump({"stages": {"prepare": {"outs": outs}}}), encoding="utf-8")
    for phase, best in zip(PHASES, (4.0, mel_ce), strict=True):
        at.metrics(phase).write_text(json.dumps({"eval": {"mel_ce": best}, "step": 1200}), encoding="utf-8")
        at.curve(phase).write_text(f"step,epoch,eval_mel_ce\n0,0,5.0\n1200,1,{best}\n", encoding="utf-8")


def experiment(checkout: Checkout, name: str) -> None:
    """What lies here, as DVC names an experiment; HEAD is as before."""
    checkout.commit(name)
    ref = f"refs/exps/ab/{'c' * 38}/{name}"
    checkout.run("git", "update-ref", ref, "HEAD")
    checkout.run("git", "reset", "--quiet", "--hard", "HEAD~1")


def lines(checkout: Checkout) -> list[str]:
    return list(experiment_lines(Workspace(checkout.root)))


def test_the_best_first_with_what_differs(here: Checkout) -> None:
    for name, mel_ce, lr in ("good-one", 3.1, 1e-3), ("bad-one", 4.5, 1e-5):
        write(here, mel_ce, lr=lr)
        experiment(here, name)
    said = lines(here)
    assert [line.split() for line in said[1:5]] == [
        ["experiment", "phase2.lr", "phase1", "phase2", "change", "best", "at", "step"],
        ["good-one", "0.001", "4.000", "3.100", "-0.900", "1,200"],
        ["HEAD", "0.0003", "4.000", "3.500", "-0.500", "1,200"],
        ["bad-one", "1e-05", "4.000", "4.500", "+0.500", "1,200"],
    ]
    assert "dvc exp apply good-one" in "\n".join(said)
    assert "password" not in "\n".join(said)
    picture = Workspace(here.root).experiments_picture.read_text(encoding="utf-8")
    for told in "good-one: phase2.lr 0.001", "bad-one: phase2.lr 1e-05", "eval Mel CE, nats per token", ">phase2.lr<":
        assert told in picture


def test_a_terminal_has_the_settings_that_it_has_room_for(here: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {f"a_setting_with_a_long_name_{number}": number for number in range(3)}
    write(here, 3.1, lr=1e-3, **settings)
    experiment(here, "good-one")
    assert any("name_2" in line and "experiment" in line for line in lines(here)), "a file has room for all"
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((100, 24)))
    said = lines(here)
    assert said[1].split()[:3] == ["experiment", "phase2.a_setting_with_a_long_name_2", "phase2.lr"]
    assert max(map(len, said[1:4])) <= 100
    assert "phase2.a_setting_with_a_long_name_1: 1, - (no room for its column)" in said
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert not any("no room" in line for line in lines(here)), "one that does not know its size"


def test_what_others_named_does_not_rule_the_terminal(here: Checkout) -> None:
    write(here, 3.1, lr="\x1b[2J\nevil")
    experiment(here, "good-one")
    said = lines(here)
    assert not any("\x1b" in line or "\n" in line for line in said)
    assert any("\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}evil" in line for line in said)


def test_figures_of_other_clips_are_not_compared(here: Checkout) -> None:
    """Whatever they are: they do not make the best."""
    write(here, 3.3, lr=1e-3)
    experiment(here, "alike")
    write(here, 1.0, clips="b", lr=1e-3)
    experiment(here, "of-other-clips")
    said = lines(here)
    assert said[2].split()[:2] == ["of-other-clips", "*"]
    assert "* measured on other clips: its figures are not to be compared" in said
    assert "dvc exp apply alike" in "\n".join(said)
    assert "of-other-clips" not in Workspace(here.root).experiments_picture.read_text(encoding="utf-8")


def test_one_without_figures_is_named(here: Checkout) -> None:
    Workspace(here.root).metrics("phase2").write_text("<<<<<<<", encoding="utf-8")
    experiment(here, "half-done")
    assert "whose reports cannot be read: half-done" in lines(here)


def test_those_that_failed_and_those_that_wait_are_named(here: Checkout) -> None:
    """Lists of DVC's own, as it writes them; tests/ops/test_queued_experiments.py has a real one."""
    head = here.run("git", "rev-parse", "HEAD").stdout.strip()
    failed = [("failed", name) for name in ("broken-one", "broken-one", "done-since")]
    for number, (place, name) in enumerate([("stash", "waits"), *failed]):
        made = here.run("git", "commit-tree", "-m", str(number), "HEAD^{tree}").stdout.strip()
        said = f"commit: dvc-exp:{head}:{head}:{name}"
        here.run("git", "update-ref", "--create-reflog", "-m", said, f"refs/exps/celery/{place}", made)
    write(here, 3.1, lr=1e-3)
    experiment(here, "done-since")
    said_of = [line for line in lines(here) if "dvc queue" in line]
    assert said_of[:2] == [
        "failed, or stopped (queued again they go on): broken-one; dvc queue logs broken-one says why, "
        "dvc queue remove --failed forgets them",
        "queued: waits; dvc queue start runs them",
    ]


def test_what_lies_here_and_is_not_committed_counts_too(here: Checkout) -> None:
    """Else something worse is proposed, which would take its place."""
    write(here, 3.3, lr=1e-3)
    experiment(here, "worse")
    write(here, 3.2, lr=1e-4)
    said = lines(here)
    assert [line.split()[0] for line in said[2:5]] == ["workspace", "worse", "HEAD"]
    assert "what lies here is the best: git commit it" in "\n".join(said)
    assert "dvc exp apply" not in "\n".join(said)
    here.commit("The better one")
    assert [line.split()[0] for line in lines(here)[2:4]] == ["HEAD", "worse"]


def test_a_phase_1_that_was_trained_again_is_of_no_run_yet(here: Checkout) -> None:
    """Phase 2 of the run before lies beside it, until it begins."""
    write(here, 3.2, lr=1e-4)
    at = Workspace(here.root)
    lock = yaml.safe_load(at.dvc_lock.read_text(encoding="utf-8"))
    lock["stages"]["train_phase1"] = {"outs": [{"path": "models/phase1", "md5": f"{32 * 'b'}.dir"}]}
    lock["stages"]["train_phase2"] = {"deps": [{"path": "models/phase1", "md5": f"{32 * 'c'}.dir"}]}
    at.dvc_lock.write_text(yaml.safe_dump(lock), encoding="utf-8")
    assert not any(line.startswith("workspace") for line in lines(here))


def test_in_a_folder_below_it_says_where_to_go(here: Checkout) -> None:
    with pytest.raises(UserError, match=r"params\.yaml"):
        list(experiment_lines(Workspace(here.root / "reports")))


def test_before_there_is_anything(tmp_path: Path) -> None:
    checkout = workspaces.repository(tmp_path / "empty")
    (checkout.root / "README.md").touch()
    checkout.commit()
    Workspace(checkout.root).params.touch()
    assert lines(checkout) == ["no commit and no experiment has figures yet: dvc repro makes HEAD's, which you commit"]


def test_two_of_one_name_are_told_apart(here: Checkout) -> None:
    write(here, 3.1, lr=1e-3)
    experiment(here, "mine")
    write(here, 3.3, lr=1e-5)
    here.commit("another")
    here.run("git", "update-ref", f"refs/exps/cd/{'e' * 38}/mine", "HEAD")
    here.run("git", "update-ref", "refs/exps/stash", "HEAD")  # DVC's own
    here.run("git", "reset", "--quiet", "--hard", "HEAD~1")
    said = lines(here)
    names = [line.split()[0] for line in said[2:5]]
    assert sorted(names) == ["HEAD", f"refs/exps/ab/{'c' * 38}/mine", f"refs/exps/cd/{'e' * 38}/mine"]
    assert "stash" not in "\n".join(said)


def test_those_that_run_are_named_and_none_that_was_killed(here: Checkout) -> None:
    workspaces.in_queue(here, "on-its-way")
    workspaces.in_queue(here, "killed", pid=2**22 - 1)
    workspaces.in_queue(here, "cleared-away", copy="nowhere")
    workspaces.in_queue(here, "over", status=6)
    assert any(line.startswith("running: on-its-way; ") for line in lines(here))
