"""Mistakes of the user, each met by a real stage process: one message, exit code 2, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from making import workspaces
from making.params import ParamsFile, be_quick
from making.project import PROJECT
from making.recordings import add_samples, sample_lines, write_metadata

from xtts_finetune.core.layout import Workspace

DATASET = "reports/dataset.json"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return workspaces.unprepared(tmp_path / "my voice")


def refusal(checkout: Checkout, *stage: str) -> str:
    """What the stage says when it refuses; it must have changed nothing, but may say more in dataset.json."""
    before = snapshot(checkout.root)
    done = checkout.stage(*(stage or ("check",)), code=2)
    assert "Traceback" not in done.stderr
    assert "\nerror: " in f"\n{done.stderr}"
    assert "remedy: " in done.stderr
    (checkout.root / DATASET).unlink(missing_ok=True)
    assert snapshot(checkout.root) == before
    return done.stderr


def snapshot(root: Path) -> dict[str, bytes]:
    """What is there, but for the page's reserve and the digests of files outside, which only save time."""
    savings = (Workspace(root).page_reserve, Workspace(root).digests)
    files = [file for file in root.rglob("*") if file.is_file() and file not in savings]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def problem(where: str, what: str, remedy: str = "") -> str:
    """How one problem of a message reads."""
    return f"  {where}\n      {what}\n      remedy: {remedy}"


# params.yaml: refused before anything slow is loaded.


def test_every_mistake_in_params_is_named_at_once(checkout: Checkout) -> None:
    def make_mistakes(params: ParamsFile) -> None:
        params["train_phase1"]["epocs"] = params["train_phase1"].pop("epochs")
        params["train_phase1"]["lr"] = "fast"
        params["train_phase2"]["batch_size"] = 0
        params["train_phase2"]["schedule"] = "linear"
        params["prepare"]["min_seconds"] = 12.5
        params["evaluate"]["sentences"] = []
        params["registri"] = params.pop("registry")
        params["frobnicate"] = True
        del params["seed"]

    checkout.change_params(make_mistakes)
    said = refusal(checkout)
    assert said.startswith("error: params.yaml cannot be used\n")
    add = "add it; presets/xtts_v2.yaml shows every key with a sensible value"
    for expected in (
        problem("params.yaml: train_phase1.epocs", "is not a known key", "did you mean epochs?"),
        problem("params.yaml: train_phase1.lr = 'fast'", "Input should be a valid number", "correct the value"),
        problem("params.yaml: train_phase2.batch_size = 0", "Input should be greater than 0", "correct the value"),
        problem("params.yaml: train_phase2.schedule = 'linear'", "Input should be 'constant' or 'cosine'"),
        problem("params.yaml: prepare", "min_seconds 12.5 must be below max_seconds 11.6", "change one of the two"),
        problem("params.yaml: evaluate.sentences = []", "List should have at least 1 item"),
        problem("params.yaml: registri", "is not a known key", "did you mean registry?"),
        problem("params.yaml: frobnicate", "is not a known key", "remove it"),
        problem("params.yaml: seed", "is missing", add),
    ):
        assert expected.partition("\n      remedy")[0] in said, said
        assert expected.split("remedy: ")[1] in said
    assert said.count("remedy: ") == 9


@pytest.mark.parametrize("stage", [("train", "phase1"), ("train", "phase2"), ("evaluate",)])
def test_every_stage_refuses_them(checkout: Checkout, stage: tuple[str, ...]) -> None:
    checkout.change_params(lambda params: params["train_phase1"].update(epocs=params["train_phase1"].pop("epochs")))
    assert problem("params.yaml: train_phase1.epocs", "is not a known key", "did you mean epochs?") in refusal(
        checkout, *stage
    )


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("seed: 42\nbase: [mini\nprepare:\n", "params.yaml:3", "expected ',' or ']'"),
        ("seed: 42\nbase: mini\nseed: 43\n", "params.yaml:3", 'found duplicate key "seed"'),
        ("", "params.yaml: seed", "is missing"),
    ],
)
def test_params_that_are_no_yaml_name_the_line(checkout: Checkout, content: str, where: str, what: str) -> None:
    (checkout.root / "params.yaml").write_text(content)
    said = refusal(checkout)
    assert f"  {where}\n      {what}" in said


def test_missing_params(checkout: Checkout) -> None:
    (checkout.root / "params.yaml").unlink()
    said = refusal(checkout)
    assert f"{checkout.root / 'params.yaml'}\n      does not exist" in said
    assert "cp presets/xtts_v2.yaml params.yaml" in said


def test_dvc_shows_the_message(finished: Checkout, copied: Checkout) -> None:
    """The user types `dvc repro`, and sees what is wrong."""
    copied.change_params(lambda params: params["train_phase2"].update(lr="fast"))
    process = copied.start("dvc", "repro")
    _, said = process.communicate()
    assert process.returncode != 0
    assert "params.yaml: train_phase2.lr = 'fast'\n      Input should be a valid number" in said
    assert "exited with 2" in said
    assert copied.files("models/phase1", "prepared") == finished.files("models/phase1", "prepared")


# Recordings and their list.


def test_malformed_lines_and_paths_that_leave_the_folder_are_named_together(checkout: Checkout) -> None:
    add_samples(checkout.root / "data", 4, "only-an-id", "a|b|c|d", "|Nameless.|", "../../secret|Not yours.|")
    said = refusal(checkout)
    assert problem("data/metadata.csv:5", "has 1 column(s): 'only-an-id'", "write id|text|normalised text") in said
    assert problem("data/metadata.csv:6", "has 4 column(s): 'a|b|c|d'", "write id|text|normalised text") in said
    assert problem("data/metadata.csv:7", "has no usable file name: ''", "name the recording in the first") in said
    assert "data/metadata.csv:8: wavs/../../secret.wav\n      'wavs/../..' points outside" in said
    assert said.count("remedy: ") == 4


def test_the_recordings_and_the_consent_to_them_are_refused_together(checkout: Checkout) -> None:
    add_samples(checkout.root / "data", 4, "only-an-id")
    (checkout.root / "data" / "consent.yaml").write_text("speaker: Anna\nconsents_to: all\ndate: 2026-11-29\n")
    for stage in (["check"], ["prepare"]):
        said = refusal(checkout, *stage)
        assert "consent.yaml: licence\n      is missing" in said or stage == ["prepare"]
        assert problem("data/metadata.csv:5", "has 1 column(s): 'only-an-id'", "write id|text|normalised text") in said
    add_samples(checkout.root / "data", 4)
    assert "consent.yaml: contact\n      is missing" in refusal(checkout, "prepare"), "by hand, without check"


def no_data(data: Path) -> None:
    pass


def no_metadata(data: Path) -> None:
    (data / "wavs").mkdir(parents=True)


def nothing_usable(data: Path) -> None:
    write_metadata(data, sample_lines(3))
    for line in sample_lines(3)[:2]:
        (data / "wavs" / f"{line.split('|')[0]}.wav").touch()


def too_few(data: Path) -> None:
    add_samples(data, 1, "gone|Hello.|")


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        (no_data, ["data/\n      does not exist", "`make setup` brings the starter data, or put your own there"]),
        (no_metadata, ["data/metadata.csv\n      cannot be read: No such file", "put it there: "]),
    ],
)
def test_recordings_that_are_not_there(
    checkout: Checkout, recordings: Callable[[Path], None], message: list[str]
) -> None:
    recordings(checkout.root / "data")
    said = refusal(checkout)
    for part in message:
        assert part in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        (
            nothing_usable,
            [
                "data/metadata.csv\n      all 3 clips are rejected: 2 × undecodable, 1 × missing file",
                "data/metadata.csv:1\n      undecodable: ",
                "data/metadata.csv:3\n      missing file: wavs/",
                "correct the recordings or their lines, or the limits in params.yaml: prepare",
            ],
        ),
        (too_few, ["params.yaml: prepare.eval_fraction\n      one clip is usable, and two are the least"]),
    ],
)
def test_recordings_that_cannot_be_used(
    checkout: Checkout, recordings: Callable[[Path], None], message: list[str]
) -> None:
    recordings(checkout.root / "data")
    said = refusal(checkout, "prepare")
    for part in message:
        assert part in said


@pytest.mark.slow
def test_rejected_lines_are_seen_though_the_rest_is_too_little(checkout: Checkout) -> None:
    too_few(checkout.root / "data")
    checkout.stage("prepare", code=2)
    report = checkout.json(DATASET)
    assert report["clips"] == {"read": 2, "accepted": 1, "rejected": 1, "train": 1, "eval": 0}
    assert report["rejected"][0]["reason"] == "missing file: wavs/gone.wav"
    assert "one clip is usable" in report["refused"]
    shown = checkout.run("xtts-finetune", "status").stdout
    assert "1 of 2 clips usable: one clip is usable, and two are the least" in shown
    assert "reports/dataset.json" in shown


# What DVC refuses by itself, in the words that README.md quotes.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("base: mini", "base: nowhere"), "[Errno 2] No such file or directory"),
        (lambda text: "", "Could not find 'base'"),
        (lambda text: text.replace("base: mini\n", ""), "Could not find 'base'"),
    ],
    ids=["no such base", "empty", "without base"],
)
def test_what_dvc_needs_it_refuses_itself(tmp_path: Path, change: Callable[[str], str], words: str) -> None:
    checkout = workspaces.cloned(tmp_path / "checkout")
    add_samples(checkout.root / "data", 4)
    workspaces.add_data(checkout, be_quick)
    file = checkout.root / "params.yaml"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert words in checkout.run("dvc", "repro", code=255).stderr
    assert words in " ".join((PROJECT / "README.md").read_text(encoding="utf-8").split())


# The base.


def test_a_base_that_was_not_fetched_names_the_files_and_the_command(checkout: Checkout) -> None:
    add_samples(checkout.root / "data", 4)
    checkout.change_params(lambda params: params.update(base="xtts_v2"))
    folder = checkout.root / "base" / "xtts_v2"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text("{}")
    said = refusal(checkout)
    assert f"{folder}\n      lacks config.json, model.pth, dvae.pth, mel_stats.pth" in said
    assert f"{folder / 'vocab.json'}\n      is not the published file" in said
    assert "xtts-finetune base fetch --accept-licence" in said
    assert "non-commercial" in said


@pytest.mark.slow
def test_a_base_folder_of_something_else(checkout: Checkout, tmp_path: Path) -> None:
    add_samples(checkout.root / "data", 4)
    checkout.change_params(lambda params: params.update(base="../../other model"))
    folder = tmp_path / "other model"
    folder.mkdir()
    for name in ("vocab.json", "model.pth", "dvae.pth", "mel_stats.pth"):
        (folder / name).write_bytes(b"\x80 as pickles begin: something else")
    (folder / "config.json").write_text(yaml.safe_dump({"model": "tacotron"}))
    said = refusal(checkout, "prepare")
    assert f"{folder / 'config.json'}\n      is not the config.json of an XTTS model" in said


# The tracking store.


@pytest.mark.slow
def test_a_damaged_tracking_database(checkout: Checkout) -> None:
    database = checkout.root / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"SQLite format 3\0" + b"\xff" * 10_000)
    said = refusal(checkout, "evaluate")
    assert f"  {database}\n      the database is damaged: file is not a database\n      remedy: move it away" in said
