"""lineage.json of a real pipeline's model: what it says is so, and what is not known is null."""

from pathlib import Path
from typing import Any

import mlcroissant
import pytest
import yaml
from checkouts import Checkout
from huggingface_hub import ModelCard
from tracked import runs

from xtts_finetune.cards import gathering
from xtts_finetune.cards.lineage import Lineage, Model
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import CARD, DATA_CARD, LINEAGE, WEIGHTS, Workspace


def bundle_of(checkout: Checkout) -> Path:
    """The files of the one version."""
    [file] = (checkout.root / "mlruns").rglob(LINEAGE)
    return file.parent


def best_of(checkout: Checkout) -> Model:
    name = checkout.json("reports/evaluation.json")["best"]
    card = checkout.json(f"models/{name}/model.json")
    return Model(phase=name, step=card["step"], best_weights=card["best_weights"], sha256=card["sha256"])


def gathered(checkout: Checkout) -> Lineage:
    """Of the best as it lies in models/, as an export asks for it."""
    return gathering.of_phase(Workspace(checkout.root), best_of(checkout), "mini", "en")


def change(checkout: Checkout, name: str, **changes: Any) -> None:
    file = checkout.root / name
    write_json(file, read_json(file) | changes)


def test_what_the_version_says_is_so(finished: Checkout) -> None:
    bundle, best = bundle_of(finished), best_of(finished)
    told = Lineage.read(bundle / LINEAGE, sha256_file(bundle / WEIGHTS))
    assert told.model == best
    assert told.base.sha256 == sha256_file(finished.root / "prepared" / "base" / "gpt.safetensors")
    assert told.git_commit == finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert told.git_dirty is False
    assert told.requirements_sha256 == sha256_file(finished.root / "requirements.lock")
    assert told.hardware and told.hardware.device == "CPU" and told.hardware.cores > 0
    assert told.software and told.software["mlflow"] == "3.17.2"
    params = yaml.safe_load((finished.root / "params.yaml").read_text(encoding="utf-8"))
    assert told.seed == params["seed"]
    assert told.params == {name: value for name, value in params.items() if name not in ("tracking", "notify")}


def test_the_version_has_dvcs_digests_of_every_stage_before(finished: Checkout) -> None:
    told, lock = read_json(bundle_of(finished) / LINEAGE)["dvc"], finished.lock()
    assert list(told) == ["prepare", "train_phase1", "train_phase2"]
    assert told["prepare"]["deps"]["data"] == lock["prepare"]["data"]["md5"]
    for stage, entry in told.items():
        for path, digest in (entry["deps"] | entry["outs"]).items():
            assert lock[stage][path]["md5"] == digest
    outs = {out for entry in told.values() for out in entry["outs"]}
    assert outs == {"prepared", "models/phase1", "models/phase2", "checkpoints/phase2"}
    assert told["train_phase2"]["params"]["train_phase2"]["lr"] == 3e-4


def test_the_version_names_its_runs_as_mlflow_has_them(finished: Checkout) -> None:
    told = read_json(bundle_of(finished) / LINEAGE)["runs"]
    there = {stage: run for stage, [run] in runs(finished).items()}
    assert told.keys() == there.keys()
    for stage, run in there.items():
        assert told[stage]["mlflow_run_id"] == run.info.run_id
        assert told[stage]["key"] == run.data.tags["run_key"]


def test_the_version_has_a_card_of_its_own(finished: Checkout) -> None:
    card = ModelCard.load(bundle_of(finished) / CARD)
    figures = finished.json("reports/evaluation.json")
    best = figures["best"]
    assert [each.metric_value for each in card.data.eval_results] == [
        figures[best]["mel_ce"],
        figures[best]["text_ce"],
    ]
    low, high = figures["intervals"][best]["mel_ce"]
    assert low < figures[best]["mel_ce"] < high
    row = f"| **{best}, this one** | {figures[best]['mel_ce']:.3f} ({low:.3f} to {high:.3f}) |"
    for line in (
        row,
        "| trained on | 21 clips, ",
        "| rejected | 6 of 30: ",
        "A &lt;b&gt;quiz-show&lt;/b&gt; host",
        "CC0-1.0",
    ):
        assert line in card.text
    assert "> \\--- Not to be used in adverts." in card.text


@pytest.mark.slow  # MLflow loads the model
def test_what_the_card_says_to_type_speaks(finished: Checkout) -> None:
    code = ModelCard.load(bundle_of(finished) / CARD).text.split("```python\n")[1].split("```")[0]
    place = finished.root / "spoken.wav"
    try:
        finished.run("python", "-c", code.replace("/NUMBER", "/1"))
        assert place.stat().st_size > 1000
    finally:
        place.unlink(missing_ok=True)


def test_the_data_card_is_of_these_recordings(finished: Checkout) -> None:
    card = bundle_of(finished) / DATA_CARD
    found = mlcroissant.Dataset(card).metadata
    digests = {each.sha256 for each in found.distribution}
    assert sha256_file(finished.root / "data" / "metadata.csv") in digests
    assert set(finished.json("prepared/features.json").values()) <= digests
    assert found.license == ["CC0-1.0"]
    texts = [
        line.split("|")[1] for line in (finished.root / "data/metadata.csv").read_text("utf-8").splitlines() if line
    ]
    content = card.read_text(encoding="utf-8")
    assert not any(text in content for text in texts if len(text) > 20)


def test_an_export_of_a_phase_knows_what_its_version_knows(finished: Checkout) -> None:
    """But for what nobody wrote down when it was trained, and what MLflow alone knows."""
    told, version = gathered(finished).model_dump(), read_json(bundle_of(finished) / LINEAGE)
    for name in ("model", "base", "seed", "dvc", "language"):
        assert told[name] == version[name]
    assert Lineage.model_validate_json(gathered(finished).model_dump_json()).figures == gathered(finished).figures
    assert told["figures"]["phase1"]["mel_ce"] == version["figures"]["phase1"]["mel_ce"]
    assert told["data"]["consent"]["contact"] == "host@example.org"
    assert {name: run["key"] for name, run in told["runs"].items()} == {
        name: version["runs"][name]["key"] for name in ("phase1", "phase2")
    }
    for name in ("git_commit", "git_dirty", "params", "requirements_sha256", "hardware", "software"):
        assert told[name] is None


def test_reports_of_other_recordings_are_not_told(copied: Checkout) -> None:
    workspace = Workspace(copied.root)
    assert gathered(copied).data and gathering.data_card_of(workspace)
    change(copied, "prepared/features.json", **{"eval.tokens.i32": 64 * "0"})
    assert gathered(copied).data is None


def test_an_evaluation_of_other_weights_is_not_told(copied: Checkout) -> None:
    change(copied, "reports/evaluation.json", weights={"phase1": 64 * "0", "phase2": 64 * "0"})
    assert gathered(copied).figures == {}


@pytest.mark.parametrize("name", ["models/phase2", "prepared", "models/phase1"])
def test_what_dvc_names_otherwise_is_not_told(copied: Checkout, name: str) -> None:
    """dvc.lock was merged, or a checkout went half-way."""
    lock = copied.root / "dvc.lock"
    content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    for stage in content["stages"].values():
        for out in stage["outs"]:
            if out["path"] == name:
                out["md5"] = f"{32 * '0'}.dir"
    lock.write_text(yaml.safe_dump(content), encoding="utf-8")
    told = gathered(copied).dvc
    if name == "models/phase2":
        assert told is None
    else:
        assert told and told["train_phase2"]
        assert told[{"prepared": "prepare", "models/phase1": "train_phase1"}[name]] is None


def test_states_that_are_gone_leave_no_run(copied: Checkout) -> None:
    """`clean --best-only` lets them go."""
    (copied.root / "checkpoints" / "phase2" / "DONE").unlink()
    assert gathered(copied).runs == {"phase1": None, "phase2": None}
    assert gathered(copied).seed is None


def test_states_of_another_run_are_not_told_of(copied: Checkout) -> None:
    """As after `dvc checkout` of models/ alone."""
    change(copied, "models/phase2/model.json", step=1)
    assert gathered(copied).runs["phase2"] is None


def test_the_data_card_of_other_recordings_is_not_taken_along(copied: Checkout) -> None:
    change(copied, "prepared/features.json", **{"eval.tokens.i32": 64 * "0"})
    assert gathering.data_card_of(Workspace(copied.root)) is None


def test_a_phase_2_of_another_phase_1(copied: Checkout) -> None:
    change(copied, "models/phase1/model.json", sha256=64 * "0")
    told = gathered(copied).runs
    assert told["phase1"] is None
    assert told["phase2"]


@pytest.mark.slow  # evaluates again
def test_no_password_of_a_server_is_in_what_is_registered(copied: Checkout) -> None:
    copied.change_params(lambda params: params["tracking"].update(uri="http://anna:geheim@127.0.0.1:9"))
    copied.change_params(lambda params: params["registry"].update(model_name="another"))
    copied.repro("--force", "--single-item", "evaluate")
    [waiting] = (copied.root / "work" / "undelivered").iterdir()
    papers = [waiting / "bundle" / name for name in (CARD, LINEAGE, DATA_CARD)]
    assert not any("geheim" in paper.read_text(encoding="utf-8") for paper in papers)
    told = read_json(waiting / "bundle" / LINEAGE)
    assert {run["mlflow_run_id"] for run in told["runs"].values()} == {None}, "nobody has said yet"
