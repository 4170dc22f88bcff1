"""`xtts-finetune clean` after experiments: what a commit, branch, tag or experiment names comes back untrained."""

from pathlib import Path
from typing import Any

import pytest
from checkouts import Checkout
from cleaning import assert_nothing_to_do, clean, detached, digests, promised, size, states
from once import made_once

from xtts_finetune.core.commands import as_typed

pytestmark = pytest.mark.slow

WORSE = ["train_phase2.lr=1e-4", "train_phase1.epochs=1", "train_phase2.epochs=1"]


@pytest.fixture(scope="module")
def experiment(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """HEAD has the better run; the workspace has a worse one, of the experiment `worse`."""

    def make(root: Path) -> None:
        checkout = finished.copy(root / "checkout")
        checkout.commit("The better run")
        settings = [f"--set-param={setting}" for setting in WORSE]
        checkout.run("dvc", "exp", "run", "--name", "worse", *settings)

    checkout = Checkout(made_once(tmp_path_factory, "experiment", make) / "checkout")
    assert mel_ce(checkout) > mel_ce(finished)
    return checkout


@pytest.fixture
def here(experiment: Checkout, tmp_path: Path) -> Checkout:
    return experiment.copy(tmp_path / "checkout")


def go_back(checkout: Checkout, *to: str) -> None:
    checkout.run("git", "checkout", "--force", "--quiet", *to)
    checkout.run("dvc", "checkout")


def mel_ce(checkout: Checkout) -> float:
    figures: Any = checkout.json("reports/train_phase2.json")
    return float(figures["eval"]["mel_ce"])


def assert_nothing_to_train(checkout: Checkout) -> None:
    """All is there but what the registry has of it: evaluate looks that up, and takes as long as all the rest."""
    assert "Running stage" not in checkout.repro("train_phase2")
    assert checkout.leftovers() == []


def assert_is(checkout: Checkout, other: Checkout) -> None:
    """The other's run is back, and nothing had to be trained for it."""
    assert_nothing_to_train(checkout)
    assert mel_ce(checkout) == mel_ce(other)
    assert digests(checkout, "models", "checkpoints") == digests(other, "models", "checkpoints")


@pytest.mark.parametrize("option", ["--intermediates", "--best-only"])
def test_the_committed_run_comes_back_after_a_worse_one(here: Checkout, finished: Checkout, option: str) -> None:
    plan = clean(here, option)
    assert f"phase2 Mel CE {mel_ce(finished):.3f} at step 9 in DVC's cache" in plan
    assert "named by HEAD, branch" in plan
    clean(here, option, "--yes")
    go_back(here, "--", ".")
    assert_is(here, finished)


def test_an_experiment_that_lies_elsewhere_stays(here: Checkout, experiment: Checkout) -> None:
    go_back(here, "--", ".")
    assert "named by experiment worse" in clean(here, "--best-only", "--yes")
    here.run("git", "checkout", "--quiet", "--", ".")
    here.run("dvc", "exp", "apply", "worse")
    assert_is(here, experiment)


def test_an_experiment_that_was_removed_goes_with_its_figures(experiment: Checkout, tmp_path: Path) -> None:
    here = detached(experiment, tmp_path / "checkout")
    go_back(here, "--", ".")
    held = size(here)
    here.run("dvc", "exp", "remove", "worse")
    plan = clean(here, "--intermediates")
    assert f"an earlier run: phase2 Mel CE {mel_ce(experiment):.3f} at step 6" in plan
    assert "no commit, branch, tag, experiment or stash names it" in plan
    clean(here, "--intermediates", "--yes")
    assert promised(plan) > 2 * 94e6
    assert held - size(here) >= 2 * 62e6  # optimisers of this run; the removed one's weights may be registered


def test_a_tag_keeps_its_run(here: Checkout, finished: Checkout) -> None:
    """And nothing else names it: the workspace's branch starts anew, without history. As a tag, so a branch."""
    here.run("git", "tag", "better")
    here.run("git", "checkout", "--quiet", "--orphan", "other")
    here.commit("The worse run")
    here.run("git", "branch", "--delete", "--force", "main")
    assert "named by tag better" in clean(here, "--best-only", "--yes")
    go_back(here, "--force", "better")
    assert_is(here, finished)


def test_a_stash_keeps_its_run(here: Checkout, experiment: Checkout) -> None:
    here.run("git", "stash", "--quiet")
    here.run("dvc", "checkout")
    here.run("dvc", "exp", "remove", "worse")
    assert "named by git's stash@{0}" in clean(here, "--best-only", "--yes")
    here.run("git", "checkout", "--quiet", "--", ".")
    here.run("git", "stash", "pop", "--quiet")
    here.run("dvc", "checkout")
    assert_is(here, experiment)


def test_the_states_of_a_phase_that_two_runs_share_stay(two_runs: Checkout, finished: Checkout, tmp_path: Path) -> None:
    """The commonest experiment of all: phase 2 alone is another one, HEAD's run has the same phase 1."""
    own = two_runs.copy(tmp_path / "checkout")
    assert "checkpoints/phase1, " in clean(own, "--intermediates", "--yes")
    assert len(states(own, "phase1")) == 2
    assert len(states(own, "phase2")) == 1
    go_back(own, "--", ".")
    assert_is(own, finished)


def test_a_run_of_an_earlier_commit_goes_only_when_asked(
    experiment: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    here = detached(experiment, tmp_path / "checkout")
    here.commit("A worse run")
    here.run("dvc", "exp", "remove", "--all-commits")
    said = clean(here, "--intermediates", "--yes")
    assert "(The better run)" in said
    assert "commit dvc.lock" in said
    here.commit("Fewer states")
    go_back(here, "HEAD~2")
    assert_is(here, finished)
    go_back(here, "main")
    held = size(here)
    plan = clean(here, "--intermediates", "--history")
    assert f"(The better run): phase1 Mel CE {finished.json('reports/train_phase1.json')['eval']['mel_ce']:.3f}" in plan
    assert "only an earlier commit names it" in plan
    clean(here, "--intermediates", "--history", "--yes")
    assert held - size(here) > 4 * 62e6
    assert_nothing_to_train(here)


def test_the_best_that_a_tip_names_comes_back_even_then(here: Checkout, finished: Checkout) -> None:
    """Of the states that dvc.lock still names there nothing is left: it learns that, and nothing is trained again."""
    said = clean(here, "--best-only", "--history", "--yes")
    assert "its best stays" in said
    here.run("git", "checkout", "--quiet", "--", ".")
    here.run("dvc", "checkout", code=255)
    assert digests(here, "models") == digests(finished, "models")
    command = "xtts-finetune clean --best-only --yes"
    assert command in here.run("xtts-finetune", "status").stdout
    assert as_typed(f"do it: {command}") in clean(here, "--best-only")
    assert "commit dvc.lock" in clean(here, "--best-only", "--yes")
    assert "Running stage 'train" not in here.repro()
    assert_nothing_to_do(here)
    assert digests(here, "models") == digests(finished, "models")
