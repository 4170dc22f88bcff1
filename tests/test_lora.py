"""Adapters through every stage, on a base in XTTS v2's format: trained, registered, spoken with and exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkouts import Checkout
from making.params import LORA, ParamsFile
from making.workspaces import STUDIO
from safetensors.torch import load_file
from tracked import versions

from xtts_finetune.core.files import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SPEAK = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pandas.DataFrame({"text": ["Welcome back!"]}))["audio_wav_base64"][0])
"""


def with_adapters(params: ParamsFile) -> None:
    for phase in ("train_phase1", "train_phase2"):
        params[phase] |= LORA


@pytest.fixture(scope="module")
def checkout(studio: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Prepared as there; nothing of its training is left."""
    checkout = studio.copy(tmp_path_factory.mktemp("lora") / "checkout")
    checkout.forget_training()
    checkout.change_params(with_adapters)
    assert "Running stage 'prepare'" not in checkout.repro()
    return checkout


def weights(checkout: Checkout, version: Any) -> Path:
    there = (checkout.root / "mlruns").rglob("model.safetensors")
    [file] = [file for file in there if sha256_file(file) == version.tags["model_sha256"]]
    return file


def exported(checkout: Checkout, what: str, folder: str) -> dict[str, torch.Tensor]:
    checkout.run("xtts-finetune", "export", what, f"../{folder}", "--speaker", "anna")
    content: dict[str, torch.Tensor] = torch.load(checkout.root.parent / folder / "model.pth", weights_only=True)
    return content["model"]  # type: ignore[return-value]


def test_registered_whole_or_as_it_was_trained(checkout: Checkout) -> None:
    """The same voice either way; states and models are of the adapters alone."""
    everything = 4 * checkout.json("prepared/base/base.json")["gpt"]["parameters"]
    for file in [*checkout.root.glob("models/*/*.safetensors"), *checkout.root.glob("checkpoints/*/*/*.safetensors")]:
        assert file.stat().st_size < everything / 20
    [whole] = versions(checkout)
    assert weights(checkout, whole).stat().st_size > everything
    assert ", the whole network of models/phase2" in checkout.run("xtts-finetune", "status").stdout
    checkout.change_params(lambda params: params["registry"].update(weights="trained"))
    assert "Running stage 'train" not in checkout.repro()
    _, alone = sorted(versions(checkout), key=lambda version: int(version.version))
    own = load_file(weights(checkout, alone))
    assert all("lora_" in name for name in own)
    assert "has the whole network" in checkout.run("xtts-finetune", "restore", "1", code=2).stderr
    assert "dvc.lock names it" in checkout.run("xtts-finetune", "restore", "2").stdout
    said = [checkout.run("python", "-c", SPEAK, f"models:/xtts-finetune/{number}").stdout for number in (1, 2)]
    assert said[0] == said[1]
    assert len(said[0]) > 10_000
    models = [exported(checkout, what, folder) for what, folder in (("1", "one"), ("2", "two"), ("phase2", "three"))]
    assert all(torch.equal(value, other[name]) for other in models[1:] for name, value in models[0].items())
    assert not any("lora" in name for name in models[0])
    assert checkout.leftovers() == []


def test_without_its_base_it_says_what_is_missing(checkout: Checkout) -> None:
    checkout.change_params(lambda params: params["registry"].update(weights="trained"))
    checkout.repro()
    model = checkout.root / STUDIO / "model.pth"
    away = model.rename(model.with_name("away"))
    try:
        said = checkout.run("python", "-c", SPEAK, "models:/xtts-finetune@candidate", code=1).stderr
    finally:
        away.rename(model)
    assert f"{STUDIO}/model.pth\n      is missing" in said
