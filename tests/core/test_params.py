"""params.yaml: every mistake in one message, each with its place and remedy."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from making.project import PROJECT

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.params import Params, load_params


@pytest.fixture
def content() -> dict[str, Any]:
    """The starter's, as a dictionary to change."""
    values: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    return values


def load(tmp_path: Path, content: dict[str, Any] | str | bytes) -> Params:
    path = tmp_path / "params.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_params(path)


def refused(tmp_path: Path, content: dict[str, Any] | str | bytes) -> UserError:
    with pytest.raises(UserError) as error:
        load(tmp_path, content)
    return error.value


def test_the_starter_run() -> None:
    params = load_params(PROJECT / "params.yaml")
    assert params.base == "mini"
    assert params.prepare.eval_fraction == 0.15
    assert params.phase("phase1") is params.train_phase1
    assert params.phase("phase2") is params.train_phase2


def test_the_run_of_the_mission() -> None:
    params = load_params(PROJECT / "presets" / "xtts_v2.yaml")
    assert (params.base, params.prepare.eval_fraction) == ("xtts_v2", 0.15)
    one, two = params.train_phase1, params.train_phase2
    assert (one.lr, one.epochs, one.batch_size, one.target_mel_ce) == (5e-6, 15, 3, 2.5)
    assert (two.lr, two.epochs, two.batch_size, two.target_mel_ce) == (1e-6, 30, 3, 2.5)
    assert (one.optim, two.optim) == ("adamw", "adamw")
    assert (params.checkpoints.save_every_steps, params.checkpoints.keep_last) == (200, 2)


@pytest.mark.parametrize("number", ["1e-6", "1E-06", "1.0e-6", "+1e-6", ".1e-5", "0.000001", "10.e-7"])
def test_numbers_as_dvc_reads_them(tmp_path: Path, number: str) -> None:
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8").replace("lr: 1.0e-3", f"lr: {number}")
    assert load(tmp_path, text).train_phase1.lr == pytest.approx(1e-6)


def test_all_problems_are_in_one_message(tmp_path: Path, content: dict[str, Any]) -> None:
    content["train_phase1"]["learning_rat"] = 1e-3
    content["train_phase1"]["warmup_step"] = 5
    del content["train_phase1"]["warmup_steps"]
    content["train_phase1"]["batch_size"] = 0
    content["train_phase2"]["lr"] = "fast"
    content["train_phase2"]["precision"] = "fp16"
    content["prepare"]["min_seconds"] = 20.0
    content["evaluate"]["sentences"] = ["Fine.", ""]
    del content["registry"]
    message = str(refused(tmp_path, content))
    assert message.startswith("params.yaml cannot be used\n")
    for part in (
        "params.yaml: train_phase1.learning_rat\n      is not a known key\n      remedy: remove it",
        "params.yaml: train_phase1.warmup_step\n      is not a known key\n      remedy: did you mean warmup_steps?",
        "params.yaml: train_phase1.batch_size = 0\n      Input should be greater than 0",
        "params.yaml: train_phase2.lr = 'fast'\n",
        "params.yaml: train_phase2.precision = 'fp16'\n      Input should be 'fp32', 'tf32' or 'bf16'",
        "params.yaml: prepare\n      min_seconds 20.0 must be below max_seconds 11.6",
        "params.yaml: evaluate.sentences.1 = ''\n",
        "params.yaml: registry\n      is missing",
    ):
        assert part in message
    assert message.count("remedy:") == 8


def test_a_file_of_before_newer_keys_says_what_to_paste(tmp_path: Path, content: dict[str, Any]) -> None:
    """Every line that is named, pasted, makes a file that is taken, and that says what it said before."""
    (tmp_path / "presets").mkdir()
    preset = (PROJECT / "presets" / "xtts_v2.yaml").read_bytes()
    (tmp_path / "presets" / "xtts_v2.yaml").write_bytes(preset)
    older = copy.deepcopy(content)
    del older["vocabulary"], older["launch"], older["registry"]["weights"]
    for phase in ("train_phase1", "train_phase2"):
        for key in ("method", "train_only", "lora"):
            del older[phase][key]
    for problem in refused(tmp_path, older).problems:
        assert problem.what == "is missing"
        *sections, _ = problem.where.removeprefix("params.yaml: ").split(".")
        place = older
        for section in sections:
            place = place[section]
        place |= yaml.safe_load(problem.remedy.removeprefix("add ").partition(" (")[0])
    assert load(tmp_path, older) == load(tmp_path, content)


def test_without_a_preset_the_key_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["registry"]["weights"]
    [problem] = refused(tmp_path, content).problems
    assert problem.remedy.startswith("add it; presets/xtts_v2.yaml shows")


def test_a_registered_model_is_fetched_first(tmp_path: Path, content: dict[str, Any]) -> None:
    """An alias moves on, and DVC would not see it."""
    content["base"] = "models:/xtts-finetune@champion"
    [problem] = refused(tmp_path, content).problems
    assert problem.where == "params.yaml: base = 'models:/xtts-finetune@champion'"
    assert problem.remedy == "xtts-finetune base fetch models:/xtts-finetune@champion, which says what to write here"
    assert load_params(tmp_path / "params.yaml", base="xtts_v2").base == "xtts_v2"


def test_what_is_there_is_not_what_an_unknown_key_means(tmp_path: Path, content: dict[str, Any]) -> None:
    """Renamed to that, it would stand there twice."""
    content["train_phase1"]["warmup_ratio"] = 0.1
    content["train_phase1"]["learning_rate"] = 0.1
    assert [problem.remedy for problem in refused(tmp_path, content).problems] == ["remove it", "remove it"]


def test_an_unknown_section(tmp_path: Path, content: dict[str, Any]) -> None:
    content["trian_phase1"] = content.pop("train_phase1")
    message = str(refused(tmp_path, content))
    assert "did you mean train_phase1?" in message
    assert "is missing" not in message, "one mistake, one complaint"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train_phase1", "lr", 0.0),
        ("train_phase1", "lr", -1e-3),
        ("train_phase1", "lr", float("nan")),
        ("train_phase1", "lr", float("inf")),
        ("train_phase1", "lr", True),
        ("train_phase1", "epochs", 1.5),
        ("train_phase1", "epochs", "3"),
        ("train_phase1", "epochs", True),
        ("train_phase1", "accumulate", 0),
        ("train_phase1", "warmup_steps", -1),
        ("train_phase1", "grad_clip", 0.0),
        ("train_phase1", "mask_prompt", "yes"),
        ("train_phase1", "schedule", "linear"),
        ("train_phase1", "optim", "adam"),
        ("train_phase1", "patience", 0),
        ("train_phase1", "evaluate_every_steps", 0),
        ("train_phase1", "stop_when_overfitting", "yes"),
        ("promotion", "sentences", 7),
        ("notify", "command", ""),
        ("train_phase1", "target_mel_ce", 0.0),
        ("prepare", "eval_fraction", 1.0),
        ("prepare", "eval_fraction", 0.0),
        ("prepare", "language", ""),
        ("prepare", "max_seconds", 30.0),
        ("prepare", "max_text_tokens", 403),
        ("prepare", "min_rms_dbfs", 0.0),
        ("checkpoints", "keep_last", 0),
        ("checkpoints", "save_every_steps", 0),
        ("evaluate", "sentences", []),
        ("evaluate", "top_p", 1.1),
        ("evaluate", "temperature", 0.0),
        ("tracking", "uri", ""),
        ("tracking", "experiment", None),
    ],
)
def test_values_out_of_range(tmp_path: Path, content: dict[str, Any], section: str, key: str, value: Any) -> None:
    content[section][key] = value
    error = refused(tmp_path, content)
    assert len(error.problems) == 1
    problem = error.problems[0]
    assert problem.where.startswith(f"params.yaml: {section}")
    assert key in problem.where + problem.what
    assert (str(value) if value != "" else "''") in problem.where + problem.what
    assert problem.remedy


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train_phase1", "lr", 1),
        ("train_phase1", "target_mel_ce", None),
        ("train_phase1", "patience", 1),
        ("train_phase2", "optim", "adamw8bit"),
        ("prepare", "max_text_tokens", 402),
        ("tracking", "uri", "http://127.0.0.1:5000"),
    ],
)
def test_values_in_range(tmp_path: Path, content: dict[str, Any], section: str, key: str, value: Any) -> None:
    content[section][key] = value
    assert getattr(getattr(load(tmp_path, content), section), key) == value


def test_a_repeated_key(tmp_path: Path) -> None:
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    line = next(i for i, row in enumerate(text.splitlines(), 1) if row.lstrip().startswith("lr:"))
    rows = text.splitlines()
    rows.insert(line, "  lr: 5.0e-3")
    error = refused(tmp_path, "\n".join(rows))
    assert error.problems[0].where == f"params.yaml:{line + 1}"
    assert error.problems[0].what.startswith('found duplicate key "lr"')


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: [1", r"params.yaml:\d"),
        ("seed: 1\n\tbase: mini", r"params.yaml:2"),
        ("seed: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("- 1\n- 2", "params.yaml"),
        ("just text", "params.yaml"),
        ("", "seed\n      is missing"),
        ("{[1]: 2}", "Keys should be strings"),
        ("{1: 2}", "params.yaml"),
        (b"seed: \xff", "is not UTF-8 text"),
        ("seed: 1\0", "is not UTF-8 text"),
    ],
)
def test_not_the_yaml_it_should_be(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, content)


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cp presets/xtts_v2\.yaml params\.yaml"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("named", ["typo.yaml", "elsewhere/params.yaml", "params.yaml/typo.yaml", "presets"])
def test_another_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """What is said to mend it leaves the project's own file alone."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    Path("presets").mkdir()
    with pytest.raises(UserError) as refused:
        load_params(Path(named))
    [problem] = refused.value.problems
    assert problem.where == named
    assert "cp " not in problem.remedy
    assert "presets/xtts_v2.yaml is one" in problem.remedy


def test_params_cannot_be_changed() -> None:
    params = load_params(PROJECT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "key", "value", "remedy"),
    [
        ("prepare", "language", "EN", "did you mean en?"),
        ("prepare", "language", "klingon", "correct the value"),
        ("train_phase1", "optim", "adam", "did you mean adamw?"),
        ("train_phase1", "precision", "fp16", "correct the value"),
        ("train_phase1", "epochs", 2.0, "write 2"),
        ("train_phase1", "patience", 1e2, "write 100"),
        ("train_phase1", "epochs", 1.5, "correct the value"),
        ("train_phase1", "epochs", 1e300, "correct the value"),
    ],
)
def test_it_says_what_to_write_instead(
    tmp_path: Path, content: dict[str, Any], section: str, key: str, value: Any, remedy: str
) -> None:
    content[section][key] = value
    [problem] = refused(tmp_path, content).problems
    assert problem.remedy == remedy


def test_a_key_as_other_trainers_call_it(tmp_path: Path, content: dict[str, Any]) -> None:
    content["train_phase1"]["learning_rate"] = content["train_phase1"].pop("lr")
    assert "did you mean lr?" in str(refused(tmp_path, content))


@pytest.mark.parametrize("uri", ["127.0.0.1:5000", "htp://127.0.0.1:5000", "http:/127.0.0.1", "http://", "", "mlruns"])
def test_an_address_that_is_none(tmp_path: Path, content: dict[str, Any], uri: str) -> None:
    """MLflow would take most of them for a folder, or a server that is down for ever."""
    content["tracking"]["uri"] = uri
    message = str(refused(tmp_path, content))
    assert f"params.yaml: tracking.uri = {uri!r}" in message
    assert "as http://127.0.0.1:5000 is one" in message


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://mlflow.example.org/a", "postgresql+psycopg2://db/a"])
def test_an_address(tmp_path: Path, content: dict[str, Any], uri: str) -> None:
    content["tracking"]["uri"] = uri
    assert load(tmp_path, content).tracking.uri == uri


@pytest.mark.parametrize(
    "endpoint",
    [
        *("gpu-1", "29400", ":29400", "gpu-1:", "gpu-1:http", "gpu-1:0", "gpu-1:65536", " a:80", "http://a:80"),
        *("::1:80", "gpu-1..cluster:80", f"{64 * 'a'}:80"),
    ],
)
def test_a_meeting_place_that_is_none(tmp_path: Path, content: dict[str, Any], endpoint: str) -> None:
    content["launch"]["rendezvous"] = endpoint
    [problem] = refused(tmp_path, content).problems
    assert problem.where == f"params.yaml: launch.rendezvous = {endpoint!r}"
    assert problem.what == "is no host:port, as gpu-1:29400 is one"


def test_every_process_must_get_a_clip(tmp_path: Path, content: dict[str, Any]) -> None:
    content["launch"] |= {"processes": 2, "nodes": 2}
    content["train_phase2"]["batch_size"] = 3
    [problem] = refused(tmp_path, content).problems
    assert problem.what == "launch.processes × launch.nodes, 4, must not be above train_phase2.batch_size 3"
    content["train_phase2"]["batch_size"] = 4
    assert load(tmp_path, content).launch.nodes == 2


def test_pieces_are_learned_by_auto_alone(tmp_path: Path, content: dict[str, Any]) -> None:
    content |= {"base": "xtts_v2", "vocabulary": {"extend": "list.txt", "pieces": 5}}
    [problem] = refused(tmp_path, content).problems
    assert problem.where == "params.yaml: vocabulary"
    assert problem.what == "pieces 5 are learned with extend: auto alone, not with list.txt"
    content["vocabulary"]["extend"] = "auto"
    assert load(tmp_path, content).vocabulary.pieces == 5


def test_minis_vocabulary_lacks_nothing(tmp_path: Path, content: dict[str, Any]) -> None:
    content["vocabulary"]["extend"] = "auto"
    [problem] = refused(tmp_path, content).problems
    assert "vocabulary.extend auto is not for base mini" in problem.what
