"""The program `xtts-finetune`, as it is typed."""

import re
from pathlib import Path

from checkouts import Checkout

from xtts_finetune.core.commands import quoted


def test_without_a_command_it_shows_its_help(fresh: Checkout) -> None:
    bare = fresh.run("xtts-finetune")
    asked = fresh.run("xtts-finetune", "--help")
    assert "dvc repro" in asked.stdout
    assert re.search(r"status +Show Mel CE", asked.stdout)
    assert (bare.stdout.strip(), bare.stderr) == (asked.stdout.strip(), "")


def test_an_unknown_command_is_the_users_mistake(fresh: Checkout) -> None:
    assert "No such command 'trian'" in fresh.run("xtts-finetune", "trian", code=2).stderr


def test_status_before_anything_ran_names_the_command_that_starts_it(fresh: Checkout) -> None:
    (fresh.root / "data").mkdir()
    said = fresh.run("xtts-finetune", "status").stdout
    assert "not prepared yet" in said
    assert re.findall(r"^(\w+) +not there yet$", said, re.MULTILINE) == ["phase1", "phase2"]
    assert "nothing yet" in said
    assert "dvc repro" in said
    assert fresh.files(".") == ["params.yaml"]


def test_status_outside_a_checkout_says_where_to_go(tmp_path: Path) -> None:
    said = Checkout(tmp_path).run("xtts-finetune", "status", code=2).stderr
    assert "params.yaml" in said
    assert "does not exist" in said
    assert "run this in the project's root" in said
    assert "Traceback" not in said


def test_in_a_folder_of_a_project_it_says_where_that_begins(fresh: Checkout) -> None:
    (fresh.root / "dvc.yaml").touch()
    (fresh.root / "data" / "my wavs").mkdir(parents=True)
    said = Checkout(fresh.root / "data" / "my wavs").run("xtts-finetune", "status", code=2).stderr
    assert f"remedy: this is a folder of a project: cd {quoted(fresh.root.resolve())}\n" in said
    assert "cp presets" not in said
    (fresh.root / "data" / "my wavs" / "dvc.yaml").touch()  # it is one itself, and lacks its params.yaml
    assert "cp presets" in Checkout(fresh.root / "data" / "my wavs").run("xtts-finetune", "status", code=2).stderr


def test_status_shows_the_figures_the_version_and_what_to_do_next(finished: Checkout) -> None:
    said = finished.run("xtts-finetune", "status").stdout
    assert "21 clips to train on, 3 to evaluate, 6 rejected" in said
    evaluation = finished.json("reports/evaluation.json")
    rows = {row[0]: row[1:] for row in re.findall(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+)$", said, re.MULTILINE)}
    assert list(rows) == ["base", "phase1", "phase2"]
    for model, (mel, text, weighted, step) in rows.items():
        figures = evaluation[model]
        assert (mel, text) == (f"{figures['mel_ce']:.3f}", f"{figures['text_ce']:.3f}")
        assert weighted == f"{0.01 * figures['text_ce']:.4f}"  # as Coqui prints it
        assert int(step) == (0 if model == "base" else finished.json(f"reports/train_{model}.json")["step"])
    assert "registered xtts-finetune version 1 (candidate, champion)" in said
    for command in ("mlflow ui", "dvc plots show", "reports/samples/"):
        assert command in said
    assert "dvc repro" not in said


def test_status_follows_a_run_half_way(untrained: Checkout) -> None:
    said = untrained.run("xtts-finetune", "status").stdout
    assert "21 clips to train on" in said
    assert "phase1     not there yet" in said
    assert "nothing yet" in said


def test_it_tells_its_version(fresh: Checkout) -> None:
    assert re.fullmatch(r"xtts-finetune \d+\.\d+\.\d+\n", fresh.run("xtts-finetune", "--version").stdout)
