"""Both ways from codes to sound."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from making.evaluation import EVALUATION, KEY
from making.params import LORA, make_params
from making.prepared import TEXT
from making.recordings import noise
from operators import REFUSED, traced
from transformers import TopPLogitsWarper
from workbench import train

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.layout import REFERENCE, Workspace
from xtts_finetune.core.params import EvaluateParams
from xtts_finetune.model.base import Base
from xtts_finetune.model.device import pick_device
from xtts_finetune.speech.speaker import Speaker, _TopP, load_speaker
from xtts_finetune.stages.bundle import bundle_of
from xtts_finetune.stages.evaluate import Evaluation, _examine, _measure
from xtts_finetune.stages.recording import CLIP, recorded_clip

SETTINGS = EvaluateParams(sentences=[TEXT], temperature=0.75, top_p=0.85, repetition_penalty=5.0, max_seconds=1.0)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / REFERENCE, noise(3, 7.0), SAMPLE_RATE, subtype="PCM_16")
    return tmp_path / REFERENCE


@pytest.fixture(params=["griffin_lim", "hifigan"])
def base(request: pytest.FixtureRequest) -> Base:
    name = {"griffin_lim": "template", "hifigan": "imported"}[request.param]
    workspace: Workspace = request.getfixturevalue(name)
    base = Base(workspace.prepared / "base", workspace.root)
    assert base.info["vocoder"] == request.param
    return base


def speaker(base: Base, reference: Path, **changes: float) -> Speaker:
    return Speaker(base.gpt(), base, reference, SETTINGS.model_copy(update=changes))


def test_speech(base: Base, reference: Path) -> None:
    one = speaker(base, reference)
    sound, rate = one.speak(TEXT, "en")
    assert rate == {"griffin_lim": 22_050, "hifigan": 24_000}[base.info["vocoder"]]
    assert sound.ndim == 1
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()
    assert 0 < np.abs(sound).max() <= 1
    assert 0.1 <= len(sound) / rate <= SETTINGS.max_seconds + 0.05
    # Again, after another text, and from another speaker: the same.
    one.speak("the dog", "en")
    torch.manual_seed(99)
    assert np.array_equal(one.speak(TEXT, "en")[0], sound)
    assert np.array_equal(speaker(base, reference).speak(TEXT, "en")[0], sound)
    shorter, _ = speaker(base, reference, max_seconds=0.3).speak(TEXT, "en")
    assert len(shorter) / rate <= 0.35


def test_the_reference_is_heard(base: Base, reference: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "other.wav", noise(9, 3.0) * np.linspace(0, 1, 66_150), SAMPLE_RATE, subtype="PCM_16")
    one, other = (speaker(base, path) for path in (reference, tmp_path / "other.wav"))
    assert not torch.allclose(one.prompt, other.prompt)


def test_texts_that_cannot_be_spoken(template: Workspace, reference: Path) -> None:
    one = speaker(Base(template.prepared / "base", template.root), reference)
    with pytest.raises(ValueError, match="the vocabulary lacks '☂'"):
        one.speak("☂", "en")
    with pytest.raises(ValueError, match="language 'xx'"):
        one.speak(TEXT, "xx")
    with pytest.raises(ValueError, match="the text has 403 tokens, the model holds 402"):
        one.speak("q" * 402, "en")


@pytest.mark.parametrize("max_seconds", [0.001, 1_000.0])
def test_limits_are_the_models(template: Workspace, reference: Path, max_seconds: float) -> None:
    base = Base(template.prepared / "base", template.root)
    gpt = base.gpt()
    gpt.max_gen_mel_tokens = 20  # as if it could hold no more
    sound, rate = Speaker(gpt, base, reference, SETTINGS.model_copy(update={"max_seconds": max_seconds})).speak(
        "a", "en"
    )
    assert 0 < len(sound) <= 21 * 1024
    assert rate == SAMPLE_RATE


@pytest.mark.parametrize("changes", [{}, LORA], ids=["full", "lora"])
def test_a_registered_model_speaks_anywhere(
    workspace: Workspace, reference: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Its folder, as evaluate registers it, needs nothing of the workspace."""
    params = make_params(epochs=1, batch_size=9, **changes)
    params = params.model_copy(update={"evaluate": SETTINGS})
    train(workspace, params)
    shutil.copyfile(reference, workspace.prepared / REFERENCE)
    base = Base(workspace.prepared / "base", workspace.root)
    weights = workspace.model("phase1") / "model.safetensors"
    sound, rate = Speaker(base.gpt(weights), base, reference, SETTINGS).speak(TEXT, "en")
    (tmp_path / "elsewhere").mkdir()
    with bundle_of(workspace, params, "phase1") as bundle:
        bundle.fill(tmp_path / "elsewhere", EVALUATION, KEY)
    registered = tmp_path / "elsewhere" / "model.safetensors"
    assert registered.samefile(weights) == (not changes)
    card = json.loads((tmp_path / "elsewhere" / "model.json").read_text())
    assert (card["phase"], card["sha256"]) == ("phase1", sha256_file(registered))
    assert not list((workspace.root / "work").glob("*whole*"))
    shutil.rmtree(workspace.root)
    again, again_rate = load_speaker(tmp_path / "elsewhere").speak(TEXT, "en")
    assert again_rate == rate
    assert np.array_equal(again, sound)


@pytest.mark.skipif(os.name == "nt", reason="needs a right there")
def test_a_bundle_outlives_the_cache_that_its_files_were_links_into(
    workspace: Workspace, reference: Path, tmp_path: Path
) -> None:
    """As DVC makes them where its cache is on another disk."""
    params = make_params(epochs=1, batch_size=9)
    train(workspace, params)
    shutil.copyfile(reference, workspace.prepared / REFERENCE)
    (tmp_path / "cache").mkdir()
    for number, file in enumerate([*workspace.model("phase1").iterdir(), *(workspace.prepared / "base").iterdir()]):
        file.rename(tmp_path / "cache" / str(number))
        file.symlink_to(tmp_path / "cache" / str(number))
    (tmp_path / "kept").mkdir()
    with bundle_of(workspace, params.model_copy(update={"evaluate": SETTINGS}), "phase1") as bundle:
        bundle.fill(tmp_path / "kept", EVALUATION, KEY)
    shutil.rmtree(tmp_path / "cache")
    load_speaker(tmp_path / "kept").speak(TEXT, "en")


def test_a_sentence_that_cannot_be_spoken_is_named(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    """After hours of training the user wants to know which, not a traceback."""
    shutil.copyfile(reference, workspace.prepared / REFERENCE)
    params = make_params()
    settings = SETTINGS.model_copy(update={"sentences": [TEXT, "a ☂"]})
    job = Evaluation(workspace, params.model_copy(update={"evaluate": settings}))
    recorded = recorded_clip(workspace, settings.max_seconds)
    with pytest.raises(
        UserError, match=r"params\.yaml: evaluate\.sentences\.1\n +the vocabulary lacks '☂'.*\n.*vocabulary\.extend"
    ):
        _examine(job, "base", tmp_path / "samples", recorded)


def test_a_model_is_opened_once_to_be_measured_and_heard(
    workspace: Workspace, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening XTTS v2 checksums 1.9 GB. Figures and sounds are those of models opened for each alone."""
    shutil.copyfile(reference, workspace.prepared / REFERENCE)
    job = Evaluation(workspace, make_params().model_copy(update={"evaluate": SETTINGS}))
    figures = _measure(job, "base", job.base.gpt().to(pick_device()))
    recorded = recorded_clip(workspace, SETTINGS.max_seconds)
    said = {"1.wav": (TEXT, "en"), CLIP: (recorded.entry.text, recorded.entry.language)}
    (tmp_path / "alone").mkdir()
    for name, words in said.items():
        sound, rate = speaker(job.base, reference).speak(*words)
        soundfile.write(tmp_path / "alone" / name, sound, rate, subtype="PCM_16")
    opened: list[Path | None] = []
    real = Base.gpt

    def spy(base: Base, weights: Path | None = None) -> Any:
        opened.append(weights)
        return real(base, weights)

    monkeypatch.setattr(Base, "gpt", spy)
    assert _examine(job, "base", tmp_path / "samples", recorded) == figures
    for name in said:
        assert (tmp_path / "samples" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert opened == [None]


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.85])
def test_top_p_keeps_what_transformers_keeps(top_p: float) -> None:
    scores = torch.randn(4, 1026, generator=torch.Generator().manual_seed(0)) * 3
    ours, theirs = _TopP(top_p)(torch.empty(0), scores), TopPLogitsWarper(top_p)(torch.empty(0), scores)  # type: ignore[arg-type]
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    assert torch.equal(ours[ours.isfinite()], scores[ours.isfinite()])


def test_speech_asks_for_nothing_that_a_gpu_refuses(workspace: Workspace, reference: Path) -> None:
    one = speaker(Base(workspace.prepared / "base", workspace.root), reference)
    assert traced(lambda: one.speak(TEXT, "en")).keys() & REFUSED == set()
