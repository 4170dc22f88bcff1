"""New letters and adapters together, through every stage: on a base of XTTS v2's form, whose vocabulary lacks them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from checkouts import Checkout
from making import workspaces
from making.params import LORA, ParamsFile, be_quick
from making.recordings import sample_lines
from tracked import versions
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_finetune.core.files import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FOLDER = "voices/studio"
SENTENCE = "Știința e țara mea."  # of letters that the transcripts have
NEW_PARTS = ["text_embedding", "text_head"]  # where new letters have their rows
SPEAK = f"""
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pandas.DataFrame({{"text": ["{SENTENCE}"]}}))["audio_wav_base64"][0])
"""


def on_it(params: ParamsFile) -> None:
    be_quick(params)
    params["base"] = f"../{FOLDER}"
    params["vocabulary"] = {"extend": "auto", "pieces": 2}
    params["evaluate"]["sentences"] = [SENTENCE]
    for phase in ("train_phase1", "train_phase2"):
        params[phase] |= {**LORA, "lora": {**LORA["lora"], "in_full": NEW_PARTS}, "epochs": 1}


def romanian(line: str) -> str:
    name, text, _ = line.split("|")
    written = text.replace("t", "ț").replace("s", "ș").replace("T", "Ț").replace("S", "Ș")
    return f"{name}|{written}|{written}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    lines = [romanian(line) for line in sample_lines(12)]
    root = tmp_path_factory.mktemp("romanian") / "checkout"
    checkout = workspaces.on_a_published_base(root, FOLDER, on_it, *lines)
    checkout.repro()
    return checkout


def said_by(checkout: Checkout, number: int) -> bytes:
    """Through the registry, as a WAV."""
    out = checkout.run("python", "-c", SPEAK, f"models:/xtts-finetune/{number}").stdout
    return base64.b64decode(out.split()[-1])


def test_whole_and_trained_alone_speak_the_same(checkout: Checkout, tmp_path: Path) -> None:
    letters = checkout.json("reports/dataset.json")["vocabulary"]["added"]["characters"]
    assert {"ș", "ț"} <= set(letters)
    report = [checkout.json(f"reports/train_{phase}.json") for phase in ("phase1", "phase2")]
    assert report[1]["eval"]["mel_ce"] <= report[0]["start"]["mel_ce"]
    checkout.change_params(lambda params: params["registry"].update(weights="trained"))
    assert "Running stage 'train" not in checkout.repro()
    whole, alone = sorted(versions(checkout), key=lambda version: int(version.version))
    sizes = {
        version.version: file.stat().st_size
        for version in (whole, alone)
        for file in (checkout.root / "mlruns").rglob("model.safetensors")
        if sha256_file(file) == version.tags["model_sha256"]
    }
    assert sizes[alone.version] < sizes[whole.version] / 2
    spoken = [said_by(checkout, number) for number in (1, 2)]
    assert spoken[0] == spoken[1]
    sound, rate = soundfile.read(io.BytesIO(spoken[0]))
    name = checkout.json("reports/evaluation.json")["best"]
    sample, sample_rate = soundfile.read(checkout.root / "reports" / "samples" / name / "1.wav")
    assert rate == sample_rate
    # not to the bit, unlike the two above: why was not looked into
    assert np.abs(sound - sample).max() < 1e-3

    models = []
    for number in (1, 2):
        out = tmp_path / str(number)
        checkout.run("xtts-finetune", "export", str(number), str(out), "--speaker", "ana")
        config = XttsConfig()
        config.load_json(str(out / "config.json"))
        model = Xtts(config)
        model.load_checkpoint(config, checkpoint_dir=out)  # strictly
        assert 1 not in model.tokenizer.encode(SENTENCE, "en"), "no letter is unknown"
        models.append(model.gpt.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())

    refused = checkout.run("xtts-finetune", "base", "fetch", "models:/xtts-finetune/2", code=2).stderr
    assert "holds what was trained alone" in refused
    assert "base/xtts-finetune-2-whole puts them together" in refused
    assert not (checkout.root / "base" / "xtts-finetune-2").exists()
    checkout.run("xtts-finetune", "export", "2", "base/xtts-finetune-2-whole")
    checkout.run("xtts-finetune", "base", "fetch", "models:/xtts-finetune/1")
    assert checkout.leftovers() == []
