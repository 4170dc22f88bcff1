"""A run folder that Coqui's own trainer wrote: a base here, and what comes of it is Coqui's again."""

from pathlib import Path

import pytest
import torch
from making import workspaces
from making.bases import published_weights
from making.coqui_runs import gpt_trainer, write_run
from making.params import ParamsFile, be_quick
from opening import open_base
from safetensors.torch import load_file
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

pytestmark = pytest.mark.slow
STUDIO, RUN = "voices/studio", "voices/GPT_XTTS_FT"


def test_it_is_a_base_of_its_own(source: Path, tmp_path: Path) -> None:
    trainer = write_run(source, tmp_path / "GPT_XTTS_FT", (100, 200))
    base = open_base(tmp_path / "GPT_XTTS_FT", tmp_path)
    assert base.info["gpt"]["path"] == "GPT_XTTS_FT/checkpoint_200.pth"
    gpt, own = base.gpt().state_dict(), trainer.xtts.gpt.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in gpt.items())
    before = published_weights(source)
    assert not torch.equal(gpt["final_norm.weight"], before["gpt.final_norm.weight"])
    assert torch.equal(base.mel_stats(), before["mel_stats"])
    assert all(torch.equal(value, trainer.dvae.state_dict()[name]) for name, value in base.codec().state_dict().items())
    vocoder, theirs = load_file(base.folder / "vocoder.safetensors"), trainer.xtts.hifigan_decoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in vocoder.items())


def on_the_run(params: ParamsFile) -> None:
    be_quick(params)
    params["base"] = f"../{RUN}"
    for phase in ("train_phase1", "train_phase2"):
        params[phase]["epochs"] = 1


def test_trained_by_coqui_then_here_then_there_again(tmp_path: Path) -> None:
    """Every stage on it, the export in Coqui's class, and as what its trainer would go on from."""
    checkout = workspaces.on_a_published_base(tmp_path / "checkout", STUDIO, on_the_run)
    studio, out = checkout.root / STUDIO, tmp_path / "anna"
    before = write_run(studio, checkout.root / RUN, (200,)).xtts.gpt.state_dict()
    checkout.repro()
    checkout.run("xtts-finetune", "export", "champion", str(out))
    best = checkout.json("reports/evaluation.json")["best"]
    ours = load_file(checkout.root / "models" / best / "model.safetensors")
    assert not torch.equal(ours["mel_head.weight"], before["mel_head.weight"])

    config = XttsConfig()
    config.load_json(str(out / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=out)  # strictly
    theirs, again = model.gpt.state_dict(), gpt_trainer(studio, out / "model.pth").xtts.gpt.state_dict()
    assert all(torch.equal(theirs[name], value) and torch.equal(again[name], value) for name, value in ours.items())
