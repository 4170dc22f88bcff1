"""`xtts-finetune export`: Coqui's own class loads it and speaks, or nothing is there."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import TTS.tts.models.xtts
from damage import replace_flipped
from exporting import FILES, export, refused
from making.prepared import TEXT, list_features
from safetensors.torch import load_file, save_file
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

from xtts_finetune.checkpoints.checkpoint import Contents
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.files import read_json, write_json, write_text
from xtts_finetune.core.layout import BASE_INFO, EMA, MODEL_CARD, REFERENCE, WEIGHTS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.data.batches import torch_seed
from xtts_finetune.export import command, coqui
from xtts_finetune.model.base import Base
from xtts_finetune.model.published import PUBLISHED
from xtts_finetune.model.xtts import GPT
from xtts_finetune.speech import speaker
from xtts_finetune.speech.speaker import TOP_K, Speaker

FAR = f"phase1@{5000 * '9'}"  # Python reads no number of so many digits
pytestmark = pytest.mark.usefixtures("deterministic")


def loaded(folder: Path) -> Xtts:
    """As the README of coqui-tts has it; its keys are strict."""
    config = XttsConfig()
    config.load_json(str(folder / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=folder)
    return model


def card(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = read_json(workspace.model("phase1") / MODEL_CARD)
    return content


def change_card(workspace: Workspace, **changes: Any) -> None:
    write_json(workspace.model("phase1") / MODEL_CARD, card(workspace) | changes)


def base_info(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = read_json(workspace.prepared / "base" / BASE_INFO)
    return content


def change_base(workspace: Workspace, **changes: Any) -> None:
    write_json(workspace.prepared / "base" / BASE_INFO, base_info(workspace) | changes)


def read(path: str, rate: int) -> torch.Tensor:
    sound, own = soundfile.read(path, dtype="float32", always_2d=True)
    assert own == rate
    return torch.from_numpy(sound.T)


@pytest.fixture(scope="module")
def exported(trained: Workspace, deterministic: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "anna"
    export(trained, folder)
    return folder


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Xtts:
    return loaded(exported)


@pytest.fixture(scope="module")
def ours(trained: Workspace, deterministic: None) -> Speaker:
    base = Base(trained.prepared / "base", trained.root)
    settings = load_params(trained.params).evaluate
    return Speaker(base.gpt(trained.model("phase1") / WEIGHTS), base, trained.prepared / REFERENCE, settings)


def test_it_holds_what_was_trained_and_the_bases_vocoder(exported: Path, trained: Workspace) -> None:
    assert sorted(os.listdir(exported)) == FILES
    content = torch.load(exported / "model.pth", weights_only=True)
    assert content.keys() == {"model"}
    expected = {f"gpt.{name}": value for name, value in load_file(trained.model("phase1") / WEIGHTS).items()}
    vocoder = load_file(trained.prepared / "base" / "vocoder.safetensors")
    expected |= {f"hifigan_decoder.{name}": value for name, value in vocoder.items()}
    expected["mel_stats"] = Base(trained.prepared / "base", trained.root).mel_stats()
    assert content["model"].keys() == expected.keys()
    assert all(torch.equal(content["model"][name], value) for name, value in expected.items())
    for name in ("config.json", "vocab.json"):
        assert (exported / name).read_bytes() == (trained.prepared / "base" / name).read_bytes()


def test_coquis_class_has_the_voice_by_name(
    theirs: Xtts, ours: Speaker, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert theirs.speaker_manager.speaker_names == ["anna"]
    voice = theirs.speaker_manager.speakers["anna"]
    assert list(voice) == ["gpt_cond_latent", "speaker_embedding"]  # in the order in which Xtts.synthesize takes them
    torch.testing.assert_close(voice["gpt_cond_latent"], ours.prompt, atol=1e-5, rtol=0)
    # cloned by Coqui from the same recording, which it resamples by another filter for the speaker encoder
    monkeypatch.setattr(TTS.tts.models.xtts, "load_audio", read)  # its own needs FFmpeg's libraries
    length = {"max_ref_length": 30, "gpt_cond_len": 30, "gpt_cond_chunk_len": 6}
    latent, embedding = theirs.get_conditioning_latents(str(trained.prepared / REFERENCE), **length)
    torch.testing.assert_close(voice["gpt_cond_latent"], latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(voice["speaker_embedding"], embedding, atol=1e-3, rtol=0)


def test_coquis_class_speaks_what_ours_speaks(theirs: Xtts, ours: Speaker) -> None:
    """By the same draws. (Where a model says STOP, Coqui's class lets the vocoder hear it; this one never does.)"""
    sound, rate = ours.speak(TEXT, "en")
    settings, voice = ours.settings, theirs.speaker_manager.speakers["anna"]
    theirs.gpt.max_gen_mel_tokens = ours.gpt.max_gen_mel_tokens
    torch.manual_seed(torch_seed("speak", TEXT))
    spoken = theirs.inference(
        TEXT,
        "en",
        *voice.values(),
        temperature=settings.temperature,
        top_k=TOP_K,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
    )["wav"]
    assert rate == 24_000
    assert len(spoken) == len(sound) > 0.5 * rate
    np.testing.assert_allclose(spoken, sound, atol=1e-5)
    assert np.abs(sound).max() > 0.01


def hush(gpt: GPT) -> None:
    """Random weights never say STOP: a second must do."""
    gpt.max_gen_mel_tokens = 21


def test_in_fp16_it_is_half_as_large_and_speaks_as_its_page_says(
    trained: Workspace, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = export(trained, tmp_path / "half", speaker="Anna, my 'voice'", half=True)
    assert "with the voice \"Anna, my 'voice'\"" in said
    sizes = [(folder / "model.pth").stat().st_size for folder in (tmp_path / "half", exported)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    code, _ = re.findall(r"```python\n(.*?)```", (tmp_path / "half" / "README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path / "half")
    begin = GPT.init_gpt_for_inference
    monkeypatch.setattr(GPT, "init_gpt_for_inference", lambda gpt, **options: (begin(gpt, **options), hush(gpt)))
    here: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), here)
    sound, rate = soundfile.read("../spoken.wav")
    assert rate == 24_000
    assert np.isfinite(sound).all() and np.abs(sound).max() > 0.01
    weights, halved = load_file(trained.model("phase1") / WEIGHTS), here["model"].gpt.state_dict()
    assert all(halved[name].dtype == torch.float32 for name in weights)
    assert all(torch.equal(halved[name], value.half().float()) for name, value in weights.items())
    assert torch.equal(here["model"].mel_stats, Base(trained.prepared / "base", trained.root).mel_stats())


def test_what_fp16_cannot_hold_stays_as_it_is() -> None:
    for tensor in (torch.tensor([1e5]), torch.tensor([3])):
        assert coqui._halved(tensor) is tensor
    assert coqui._halved(torch.tensor([0.5])).dtype == torch.float16


def test_its_page_says_what_it_is(exported: Path, trained: Workspace) -> None:
    digest = json.loads((trained.model("phase1") / MODEL_CARD).read_text())["sha256"]
    page = (exported / "README.md").read_text(encoding="utf-8")
    for figure in ("models/phase1", "phase1, 201", digest, "../base/small", "| 4.250 | 3.500 | 0.0350 |"):
        assert figure in page
    assert "fp16" not in page
    said = json.loads((exported / "export.json").read_text())
    assert (said["phase"], said["step"], said["sha256"], said["speaker"]) == ("phase1", 201, digest, "anna")
    licence = (exported / "LICENSE.txt").read_text(encoding="utf-8")
    assert "non-commercial use only" in licence
    assert "what it says, is to get these terms with it" in licence
    assert "when it was evaluated" not in page


def test_a_base_that_is_xtts_v2_has_its_licence(workspace: Workspace, tmp_path: Path) -> None:
    digest = PUBLISHED["model.pth"]
    change_base(workspace, gpt=base_info(workspace)["gpt"] | {"sha256": digest})
    change_card(workspace, trained_with=card(workspace)["trained_with"] | {"base_weights": digest})
    export(workspace, tmp_path / "anna")
    assert "XTTS v2's licence holds for it" in (tmp_path / "anna" / "LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", [220, 230])
def test_a_step_is_exported_without_its_optimiser(workspace: Workspace, tmp_path: Path, step: int) -> None:
    export(workspace, tmp_path / "anna", f"phase2@{step}")
    content = torch.load(tmp_path / "anna" / "model.pth", weights_only=True)["model"]
    [place] = workspace.work("phase2").glob(f"step-*{step}")
    assert all(torch.equal(content[f"gpt.{name}"], value) for name, value in load_file(place / WEIGHTS).items())
    assert not any("moments" in name or "exp_avg" in name for name in content)
    page = (tmp_path / "anna" / "README.md").read_text(encoding="utf-8")
    assert ("4.125" in page) == (step == 220)
    assert ("Its losses on the recordings kept for evaluation are not known." in page) == (step == 230)
    assert "nobody need have heard it" in page


@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_step_whose_average_is_the_best(workspace: Workspace, tmp_path: Path, is_in_place: bool) -> None:
    """Also in the moment before the best has its own place."""
    store = CheckpointStore(workspace.work("phase2"), 2)
    former = store.states()[-1]
    weights = load_file(former.weights)
    average = {name: value + 1e-3 for name, value in weights.items()}
    best = {"best_step": 240, "best_mel_ce": 4.0, "best_text_ce": 3.0, "best_weights": "ema"}
    contents = Contents(
        write_weights=lambda folder: save_file(weights, folder / WEIGHTS),
        write_rest=lambda folder: save_file(average, folder / EMA),
        size=0,
        state={**former.state, "position": {"step": 240, **best}},
    )
    store.save(240, contents, is_best=is_in_place)
    assert bool([each for each in store.bests() if each.step == 240]) == is_in_place
    export(workspace, tmp_path / "anna", "phase2@240")
    content = torch.load(tmp_path / "anna" / "model.pth", weights_only=True)["model"]
    assert all(torch.equal(content[f"gpt.{name}"], value) for name, value in average.items())
    page = (tmp_path / "anna" / "README.md").read_text(encoding="utf-8")
    assert "phase2, 240, the moving average of its weights (`ema`)" in page
    assert "4.000" in page


def test_unasked_it_is_the_newest_phases(workspace: Workspace, tmp_path: Path) -> None:
    """Where nothing is registered."""
    assert "exporting models/phase1" in export(workspace, tmp_path / "anna", None)
    shutil.rmtree(workspace.model("phase1"))
    assert "no model is trained or registered yet" in refused(workspace, tmp_path / "other", None)


@pytest.mark.parametrize("what", ["phase2", "phase2@7", FAR, "phase3", "champion", "3", "", "phase1@", "models/phase1"])
def test_an_unknown_model_is_refused_with_those_that_there_are(workspace: Workspace, tmp_path: Path, what: str) -> None:
    said = refused(workspace, tmp_path / "anna", what)
    assert re.search(r"phase1 +models/phase1\n", said)
    assert re.search(r"phase2@220 +work/phase2/best-00000220\n", said)
    assert re.search(r"phase2@230 +work/phase2/step-00000230\n", said)


def test_mini_is_no_xtts(workspace: Workspace, tmp_path: Path) -> None:
    change_base(workspace, vocoder="griffin_lim")
    said = refused(workspace, tmp_path / "anna")
    assert "no XTTS: it speaks by Griffin and Lim" in said
    assert "base in params.yaml" in said


def test_weights_that_are_not_what_was_recorded(workspace: Workspace, tmp_path: Path) -> None:
    replace_flipped(workspace.model("phase1") / WEIGHTS)
    assert "is damaged, or another model" in refused(workspace, tmp_path / "anna")
    [state] = workspace.work("phase2").glob("step-*230")
    replace_flipped(state / WEIGHTS)
    assert "is damaged, or another model" in refused(workspace, tmp_path / "anna", "phase2@230")
    (state / WEIGHTS).unlink()
    assert "is not there" in refused(workspace, tmp_path / "anna", "phase2@230")


def test_a_card_that_cannot_be_read(workspace: Workspace, tmp_path: Path) -> None:
    place = workspace.model("phase1") / MODEL_CARD
    place.write_text("{")
    assert f"{place}\n      cannot be read" in refused(workspace, tmp_path / "anna")


def test_a_model_of_another_base(workspace: Workspace, tmp_path: Path) -> None:
    params = workspace.params.read_text(encoding="utf-8").replace("base: ../base/small", "base: ../base/other")
    workspace.params.write_text(params, encoding="utf-8")
    assert "was trained on the base ../base/small" in refused(workspace, tmp_path / "anna")


def test_a_step_of_a_run_that_began_elsewhere(workspace: Workspace, tmp_path: Path) -> None:
    """As when the base was changed, and the run before has yet to be moved aside."""
    change_card(workspace, sha256="f" * 64)
    said = refused(workspace, tmp_path / "anna", "phase2@230")
    assert "it cannot be told whether it was trained with the base weights in prepared/" in said


@pytest.mark.parametrize(
    ("entry", "words"),
    [("data", "recordings"), ("base_files", "base files"), ("base_weights", "base weights")],
)
@pytest.mark.parametrize("what", ["phase1", "phase2@230"])
def test_what_another_voice_or_base_is_prepared_for(
    workspace: Workspace, tmp_path: Path, entry: str, words: str, what: str
) -> None:
    """As when `dvc repro` has come to phase 1 of other recordings, or a version was restored beside them."""
    if entry == "data":
        list_features(workspace, **{"train.jsonl": "of other recordings"})
    elif entry == "base_files":
        change_base(workspace, files=base_info(workspace)["files"] | {"config.json": "another"})
    else:
        change_base(workspace, gpt=base_info(workspace)["gpt"] | {"sha256": "another"})
    said = refused(workspace, tmp_path / "anna", what)
    assert f"was trained with other {words}" in said
    assert said.count("remedy: export its registered version") == 1


@pytest.mark.parametrize("what", ["phase1", "phase2@230"])
def test_a_model_that_does_not_say_what_it_was_trained_with(workspace: Workspace, tmp_path: Path, what: str) -> None:
    """Of a version before."""
    change_card(workspace, trained_with={})
    assert "it cannot be told whether it was trained with the base weights" in refused(workspace, tmp_path / "a", what)
    change_card(workspace, trained_with=None)
    assert refused(workspace, tmp_path / "a", what)


def test_what_prepare_left_is_damaged(workspace: Workspace, tmp_path: Path) -> None:
    write_text(workspace.prepared / "features.json", "{")
    assert f"{workspace.prepared / 'features.json'}\n      is damaged" in refused(workspace, tmp_path / "anna")


@pytest.mark.parametrize(
    "name",
    ["reference.wav", "base/config.json", "base/vocab.json", "base/mel_stats.safetensors", "base/vocoder.safetensors"],
)
def test_a_flipped_bit_in_what_it_speaks_with(workspace: Workspace, tmp_path: Path, name: str) -> None:
    replace_flipped(workspace.prepared / name)
    said = refused(workspace, tmp_path / "anna")
    assert f"{workspace.prepared / name}\n      is damaged" in said


def test_what_nobody_wrote_a_digest_of_is_named(workspace: Workspace, tmp_path: Path) -> None:
    """As `prepare` of a version before."""
    assert "not checked" not in export(workspace, tmp_path / "anna")
    change_base(workspace, digests={})
    assert "not checked, as no SHA-256 of theirs" in export(workspace, tmp_path / "old")
    assert (tmp_path / "old" / "model.pth").read_bytes() == (tmp_path / "anna" / "model.pth").read_bytes()


def test_a_gpu_that_trains_is_left_alone(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker, "pick_device", lambda: torch.device("cuda"))
    export(workspace, tmp_path / "anna")


@pytest.mark.parametrize(
    "name", ["models/phase1/model.safetensors", "prepared/reference.wav", "prepared/base/base.json"]
)
def test_files_that_are_replaced_meanwhile(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By a `dvc repro` that goes on."""

    def go_on(*arguments: Any) -> dict[str, torch.Tensor]:
        content = (workspace.root / name).read_bytes()
        (workspace.root / name).unlink()
        (workspace.root / name).write_bytes(content)
        return {}

    monkeypatch.setattr(coqui, "_voice", go_on)
    assert "was replaced, or let go" in refused(workspace, tmp_path / "anna")


def test_recordings_that_are_prepared_anew_before_it_reads(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found to be its own voice is another by then."""

    def prepare_anew(*_: Any) -> None:
        content = (workspace.prepared / REFERENCE).read_bytes()
        (workspace.prepared / REFERENCE).unlink()
        (workspace.prepared / REFERENCE).write_bytes(content)

    monkeypatch.setattr(command, "preflight_export", prepare_anew)
    assert "was replaced, or let go" in refused(workspace, tmp_path / "anna")
