"""A base in the format XTTS v2 is published in: opened, fine-tuned and spoken with, by every stage."""

import hashlib
import json

import pytest
import soundfile
import tracked
from checkouts import Checkout
from making.bases import SECOND_NAMES, published_weights
from making.workspaces import STUDIO
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BASE = f"../{STUDIO}"  # as seen from base/


@pytest.fixture(scope="module")
def checkout(studio: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Its own: files of the base are changed for a while."""
    return studio.copy(tmp_path_factory.mktemp("published") / "checkout")


def test_the_weights_stay_where_they_are(checkout: Checkout) -> None:
    base = [
        "base.json",
        "config.json",
        "dvae.safetensors",
        "mel_stats.safetensors",
        "vocab.json",
        "vocoder.safetensors",
    ]
    assert checkout.files("prepared/base") == [f"prepared/base/{name}" for name in base]
    model = checkout.root / STUDIO / "model.pth"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    count = sum(value.numel() for value in load_file(checkout.root / "models/phase2/model.safetensors").values())
    gpt = checkout.json("prepared/base/base.json")["gpt"]
    assert (gpt["path"], gpt["sha256"], gpt["parameters"]) == (f"{STUDIO}/model.pth", digest, count)


def test_training_starts_from_them_and_ends_somewhere_else(checkout: Checkout) -> None:
    published = published_weights(checkout.root / STUDIO)
    trained = load_file(checkout.root / "models" / "phase2" / "model.safetensors")
    own = {f"gpt.{name}" for name in trained}
    others = {name for name in published if name.startswith("gpt.") and name not in own}
    assert own <= set(published)
    assert all(name.startswith(SECOND_NAMES) for name in others)
    changes = [(trained[name] - published[f"gpt.{name}"]).abs().max().item() for name in trained]
    assert 0 < max(changes) < 0.1  # 4 steps with a learning rate of at most 1e-3
    report = checkout.json("reports/train_phase1.json")
    assert report["eval"]["mel_ce"] < report["start"]["mel_ce"]


def test_its_vocoder_speaks_at_24_khz(checkout: Checkout) -> None:
    for model in ("base", "phase1", "phase2"):
        sound, rate = soundfile.read(checkout.root / f"reports/samples/{model}/1.wav")
        assert rate == 24_000
        assert len(sound) > 0


def test_the_registered_has_all_it_needs_to_speak(checkout: Checkout) -> None:
    [version] = tracked.versions(checkout)
    assert version.tags["base"] == BASE
    names = {name.rpartition("artifacts/model/")[2] for name in checkout.files("mlruns") if "artifacts/model/" in name}
    base = {"base.json", "config.json", "mel_stats.safetensors", "vocab.json", "vocoder.safetensors"}
    own = {"model.safetensors", "model.json", "reference.wav", "speak.json"}
    cards = {"README.md", "lineage.json", "croissant.json"}
    assert names == own | cards | {f"base/{name}" for name in base}


def test_a_changed_base_is_not_trained_from(checkout: Checkout) -> None:
    """It is in no folder that DVC watches: the stages themselves look."""
    model = checkout.root / STUDIO / "model.pth"
    content = model.read_bytes()
    try:
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        said = checkout.stage("evaluate", code=2).stderr
    finally:
        model.write_bytes(content)
    assert f"{model}\n      is not the file that prepare saw" in said
    assert "Traceback" not in said


def test_files_that_do_not_fit_each_other_are_refused(checkout: Checkout) -> None:
    config = checkout.root / STUDIO / "config.json"
    content = config.read_text(encoding="utf-8")
    before = checkout.files("prepared")
    try:
        changed = json.loads(content)
        changed["model_args"]["gpt_layers"] += 1
        config.write_text(json.dumps(changed), encoding="utf-8")
        said = checkout.stage("prepare", code=2).stderr
    finally:
        config.write_text(content, encoding="utf-8")
    assert "the base cannot be used" in said
    assert f"{checkout.root / STUDIO / 'model.pth'}\n      lacks 12 tensors: gpt.h.4.ln_1.weight; " in said
    assert "use weights, config.json and vocab.json of one and the same model" in said
    assert "Traceback" not in said
    assert checkout.files("prepared") == before
    assert checkout.leftovers() == []
