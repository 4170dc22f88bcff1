"""The main job on real recordings: 311 clips of LJSpeech, which lie beside the repository where they are at hand."""

import hashlib
import json
import math

import pytest
import tracked
from checkouts import Checkout
from making import workspaces
from making.params import ParamsFile, be_quick
from making.project import PROJECT

RECORDINGS = PROJECT.parent / "shared" / "ljspeech-311"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason="needs ../shared/ljspeech-311"),
]


def one_epoch_each(params: ParamsFile) -> None:
    be_quick(params)
    for section in ("train_phase1", "train_phase2"):
        params[section] |= {"epochs": 1, "batch_size": 16}
    params["checkpoints"]["save_every_steps"] = 100


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = workspaces.cloned(tmp_path_factory.mktemp("real") / "checkout")
    checkout.run("cp", "-r", str(RECORDINGS), "data")
    checkout.run("chmod", "-R", "u+w", "data")
    workspaces.add_data(checkout, one_epoch_each)
    checkout.repro()
    return checkout


def test_every_clip_is_used(checkout: Checkout) -> None:
    report = checkout.json("reports/dataset.json")
    assert report["clips"] == {"read": 311, "accepted": 311, "rejected": 0, "train": 265, "eval": 46}
    assert 0.5 < report["hours"]["train"] + report["hours"]["eval"] < 0.6
    assert report["base"]["codebook_perplexity"] > 500


def test_no_transcript_is_on_both_sides(checkout: Checkout) -> None:
    def texts(split: str) -> set[str]:
        lines = (checkout.root / "prepared" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["text"].lower() for line in lines}

    assert len(texts("eval")) == 46
    assert texts("train") & texts("eval") == set()


def test_both_phases_learn(checkout: Checkout) -> None:
    phase1, phase2 = (checkout.json(f"reports/train_{phase}.json") for phase in ("phase1", "phase2"))
    assert phase1["start"]["mel_ce"] == pytest.approx(math.log(1026), abs=0.3)
    assert phase1["eval"]["mel_ce"] < phase1["start"]["mel_ce"] - 0.3
    assert phase2["eval"]["mel_ce"] < phase1["eval"]["mel_ce"]
    assert (phase1["last_step"], phase2["last_step"]) == (17, 34)  # ⌈265 / 16⌉ an epoch


def test_mlflow_has_every_step(checkout: Checkout) -> None:
    runs = tracked.runs(checkout)
    for phase, first in ("phase1", 1), ("phase2", 18):
        [run] = runs[phase]
        steps = [step for step, _ in tracked.history(checkout, run, "train/mel_ce")]
        assert steps == list(range(first, first + 17))


def test_the_better_phase_is_the_one_registered(checkout: Checkout) -> None:
    [version] = tracked.versions(checkout)
    best = checkout.json("reports/evaluation.json")["best"]
    weights = (checkout.root / "models" / best / "model.safetensors").read_bytes()
    assert version.tags["phase"] == best == "phase2"
    assert version.tags["model_sha256"] == hashlib.sha256(weights).hexdigest()
    assert tracked.aliases(checkout) == {"candidate": 1, "champion": 1}
