"""`xtts-finetune reproduce`: its commands do what it says, and its proof fails where something was changed."""

import re
import shutil
from pathlib import Path

import pytest
from checkouts import Checkout
from damage import replace_flipped

from xtts_finetune.core.files import read_json, sha256_file, write_json

pytestmark = pytest.mark.slow  # starts processes
WEIGHTS = Path("models", "phase2", "model.safetensors")


def reproduce(at: Checkout, *arguments: str, code: int = 0) -> str:
    done = at.run("xtts-finetune", "reproduce", *arguments, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def committed(copied: Checkout) -> Checkout:
    copied.commit()
    return copied


def test_a_commit_names_it(committed: Checkout) -> None:
    commit = committed.run("git", "rev-parse", "--short=9", "HEAD").stdout.strip()
    committed.run("git", "commit", "--quiet", "--allow-empty", "--message", "Something else")
    said = reproduce(committed, "champion")
    assert f"weights {sha256_file(committed.root / WEIGHTS)}" in said
    assert "its run is named by HEAD, branch main" in said
    assert "dvc checkout" in said
    assert commit not in said  # the branch's tip names it as well
    assert "params.yaml is of another registry there" not in said


def test_nobody_names_it(copied: Checkout) -> None:
    """It was not committed: neither are its parameters."""
    said = reproduce(copied, "1")
    assert "no commit, branch, tag, stash or experiment here names its run" in said
    commit = copied.run("git", "rev-parse", "--short=9", "HEAD").stdout.strip()
    assert f"trained at commit {commit}" in said
    assert "git checkout" not in said


def test_there_is_no_such_version(finished: Checkout) -> None:
    assert "there is no such version; there is:\n        version 1" in reproduce(finished, "7", code=2)


def test_of_another_run_than_lies_here(two_runs: Checkout, tmp_path: Path) -> None:
    here = two_runs.copy(tmp_path / "checkout")
    refused = reproduce(here, "1", "--check", "1", code=2)
    assert "has another model, or none" in refused
    found = re.search(r"bring its run back first: (git stash) && \S*(dvc checkout)", refused)
    assert found, "HEAD is that commit: a checkout of it would change nothing"
    for command in found.groups():
        here.run(*command.split())
    said = reproduce(here, "1", "--check", "1")
    assert "1 of 9 stretches" in said
    assert re.search(r"phase2, steps \d to 9: every figure as recorded", said), "the one that ends in its weights"
    assert "phase1, steps" not in said


def test_a_version_that_is_looked_up_elsewhere_then(committed: Checkout) -> None:
    """Pasted as they are, the commands would ask another registry."""
    committed.change_params(lambda params: params["registry"].update(model_name="voice"))
    committed.commit("Another name")
    committed.change_params(lambda params: params["registry"].update(model_name="xtts-finetune"))
    said = reproduce(committed, "1")
    assert "set it as it is here first, in which the version is\n  registry.model_name: xtts-finetune\n" in said


def test_other_parameters_than_then(committed: Checkout) -> None:
    committed.change_params(lambda params: params["train_phase1"].update(lr=2e-3))
    refused = reproduce(committed, "1", "--check", "1", code=2)
    assert "checkpoints/phase1/ is another run's: train_phase1.lr 0.001 → 0.002" in refused


def test_all_of_it_again_here(committed: Checkout) -> None:
    """As many stretches as there are: the proof is whole."""
    before = committed.files(".")
    said = reproduce(committed, "champion", "--check", "100")
    assert "prepared/: made again of data/, all" in said
    for phase, steps in ("phase1", "1 to 6"), ("phase2", "7 to 9"):
        assert f"{phase}, steps {steps}: every figure as recorded, to the last bit" in said
    assert "9 of 9 stretches, 9 of 9 steps: all as recorded" in said
    assert "among them step 9, whose weights are those of version 1" in said
    assert "up to date" in committed.run("dvc", "status").stdout
    new = {name for name in set(committed.files(".")) - set(before) if "__pycache__" not in name}
    assert new <= {"work/rebuilt.lock", "work/rebuilt"}


def test_what_is_not_recorded_any_more_cannot_be_proven(committed: Checkout) -> None:
    """clean --best-only lets the figures of the steps go with the states."""
    committed.run("xtts-finetune", "clean", "--best-only", "--yes")
    refused = reproduce(committed, "1", "--check", "1", code=2)
    for phase in ("phase1", "phase2"):
        assert re.search(rf"checkpoints/{phase}\n +the figures of its steps are not here: clean --best-only", refused)
    assert "is not the best of the run" not in refused


def test_the_best_of_a_phase_before_that_is_another_runs(committed: Checkout) -> None:
    card = committed.root / "models" / "phase1" / "model.json"
    changed = read_json(card) | {"step": 1}
    card.unlink()  # a link into DVC's cache
    write_json(card, changed)
    refused = reproduce(committed, "1", "--check", "1", code=2)
    assert re.search(r"models/phase1\n +is not the best of the run in checkpoints/\n +remedy: bring it back: ", refused)
    assert "models/phase2" not in refused


def test_prepared_clips_that_were_exchanged_behind_its_back(committed: Checkout) -> None:
    """Its own list of digests still says what they were."""
    replace_flipped(next((committed.root / "prepared").glob("train.audio*")), at=4000)
    refused = reproduce(committed, "1", "--check", "1", code=2)
    assert "the data does not give what was trained on" in refused
    assert "1 of 16 files differ" in refused


def test_in_a_folder_beside_it_as_the_commands_say(committed: Checkout) -> None:
    said = reproduce(committed, "1")
    lines = [line.strip() for line in said[said.index("to train all of it again") :].splitlines()]
    commands = [line.replace(".venv/bin/", "").split() for line in lines[1:-1]]
    assert [command[:2] for command in commands] == [
        ["git", "worktree"], ["dvc", "get"], ["cd", "../again"], ["make", "setup"], ["dvc", "repro"],
        ["sha256sum", str(WEIGHTS)],
    ]  # fmt: skip
    again = Checkout(committed.root.parent / "again")
    again.root.mkdir()
    second = reproduce(committed, "1")
    assert "  cd ../again-2\n" in second and "../again " not in second
    again.root.rmdir()
    for command in commands[:2]:
        committed.run(*command)
    again.repro()  # `make setup` makes the environment that this runs in
    assert sha256_file(again.root / WEIGHTS) == lines[-1].split()[-1]
    shutil.rmtree(again.root)
