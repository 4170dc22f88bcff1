import base64
import io
import json
import re
import shutil
import sys
import types
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from runs import artifact_folder

from xtts_finetune.core.layout import Workspace
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking import logged_model, registry
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.notes import NUMBER, RUN_PAGE
from xtts_finetune.tracking.registry import Registration, find_champion, register_best, versions
from xtts_finetune.tracking.versions import Versions

WHERE = {"registry": ANY, "address": ANY}
METRICS = {"eval/mel_ce": 2.4312, "eval/text_ce": 2.81}


@pytest.fixture
def run_id(store: TrackingStore) -> str:
    identifier: str = store.client.create_run(store.experiment_id).info.run_id
    return identifier


def register(store: TrackingStore, run_id: str, model: Path, sha256: str = "f00d") -> Registration:
    return register_best(
        store, run_id, "voice", model, SERVING_CODE, sha256, {"phase": "phase2", "step": "420"}, METRICS
    )


def logged_models(store: TrackingStore) -> list[Any]:
    return list(store.client.search_logged_models([store.experiment_id]))


def test_a_version_says_what_it_is(store: TrackingStore, run_id: str, model: Path) -> None:
    done = register(store, run_id, model)
    assert done == Registration("voice", 1, ["candidate", "champion"], created=True, champion=1, note=None, **WHERE)
    [version] = versions(store, "voice")
    assert version.aliases == ["candidate", "champion"]
    assert version.tags == {
        "phase": "phase2",
        "step": "420",
        "eval_mel_ce": "2.4312",
        "eval_text_ce": "2.81",
        "model_sha256": "f00d",
    }
    assert version.run_id == run_id
    stored = store.client.get_model_version("voice", "1")
    assert stored.description == (
        "The best of phase2, step 420; eval mel ce 2.4312, eval text ce 2.8100 nats per token. Weights f00d."
    )
    [model_entity] = logged_models(store)
    [output] = store.client.get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model_entity.model_id, 420)
    assert '"voice"' in model_entity.tags["mlflow.modelVersions"]


def test_a_page_is_no_longer_than_a_database_takes(store: TrackingStore, run_id: str, model: Path) -> None:
    """SQLite would take it, PostgreSQL refuses."""
    tags = {"phase": "phase2", "step": "420"}
    register_best(store, run_id, "voice", model, SERVING_CODE, "f00d", tags, METRICS, page="<its evaluation>" * 312)
    description = store.client.get_model_version("voice", "1").description
    assert len(description) == 5000
    assert description.startswith("#/experiments/")


def test_the_registry_adds_no_bytes(store: TrackingStore, run_id: str, model: Path) -> None:
    register(store, run_id, model)
    folder = artifact_folder(store, versions(store, "voice")[0])
    files = [path.relative_to(model) for path in model.rglob("*") if path.is_file()]
    assert len(files) == 3
    for file in files:
        assert (folder / file).stat().st_ino == (model / file).stat().st_ino


def test_a_symlink_into_the_cache_is_registered_as_the_file(store: TrackingStore, run_id: str, model: Path) -> None:
    cached = model.parent / "cached"
    (model / "model.safetensors").rename(cached)
    (model / "model.safetensors").symlink_to(cached)
    register(store, run_id, model)
    linked = artifact_folder(store, versions(store, "voice")[0]) / "model.safetensors"
    assert not linked.is_symlink()
    assert linked.stat().st_ino == cached.stat().st_ino


def test_the_same_weights_keep_their_version(store: TrackingStore, run_id: str, model: Path) -> None:
    register(store, run_id, model, "one")
    register(store, run_id, model, "two")
    again = register(store, run_id, model, "one")
    assert again == Registration("voice", 1, ["candidate", "champion"], created=False, champion=1, note=None, **WHERE)
    assert [version.version for version in versions(store, "voice")] == [2, 1]
    assert len(logged_models(store)) == 2


def test_later_versions_leave_the_champion_alone(store: TrackingStore, run_id: str, model: Path) -> None:
    register(store, run_id, model, "one")
    assert register(store, run_id, model, "two").aliases == ["candidate"]
    champion = find_champion(store, "voice")
    assert champion is not None and champion.version == 1


@pytest.mark.parametrize(
    ("data", "whose"), [("a.dir", "of the same recordings"), ("b.dir", r"of OTHER recordings \(24 clips\)")]
)
def test_a_version_says_whose_voice_the_champion_is(
    store: TrackingStore, run_id: str, model: Path, data: str, whose: str
) -> None:
    def of(sha256: str, data_md5: str) -> Registration:
        tags = {"phase": "phase2", "step": "420", "data_md5": data_md5, "data": "24 clips", "param.lr": "0.1"}
        return register_best(store, run_id, "voice", model, SERVING_CODE, sha256, tags, METRICS)

    of("one", "a.dir")
    second = of("two", data)
    assert second.champion == 1
    assert re.search(rf"champion stays version 1, {whose}; to move it: \S*xtts-finetune promote 2", str(second))
    store.client.set_registered_model_alias("voice", "champion", "2")  # as it says
    assert of("two", data).note is None
    assert "candidate is the latest" in store.client.get_registered_model("voice").description
    assert {each.params["lr"] for each in logged_models(store)} == {"0.1"}


def test_registering_makes_none_champion_beside_others(store: TrackingStore, run_id: str, model: Path) -> None:
    """Its alias goes with a version that is deleted."""

    def of(sha256: str) -> Registration:
        tags = {"phase": "phase2", "step": "420"}
        return register_best(store, run_id, "voice", model, SERVING_CODE, sha256, tags, METRICS)

    of("one")
    of("two")
    store.client.delete_registered_model_alias("voice", "champion")
    third = of("three")
    assert (third.champion, third.aliases) == (None, ["candidate"])
    assert re.search(r"there is no champion; to make it one: \S*xtts-finetune promote 3", str(third))


def test_nothing_registered(store: TrackingStore) -> None:
    assert versions(store, "voice") == []
    assert find_champion(store, "voice") is None


@pytest.mark.parametrize("step", ["create_registered_model", "create_model_version", "log_outputs"])
def test_a_crash_before_the_version_is_made_up_for(
    store: TrackingStore, run_id: str, model: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.client, step, crash)
        with pytest.raises(KeyboardInterrupt):
            register(store, run_id, model)
    assert versions(store, "voice") == []
    assert register(store, run_id, model).created
    assert len(logged_models(store)) == 1
    assert len(store.client.get_run(run_id).outputs.model_outputs) == 1


def test_a_crash_while_linking_leaves_no_rest(
    store: TrackingStore, run_id: str, model: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logged_model, "link_tree", crash)
        with pytest.raises(OSError, match="No space"):
            register(store, run_id, model)
    assert [model.status for model in logged_models(store)] == ["PENDING"]
    assert register(store, run_id, model).created
    assert [model.status for model in logged_models(store)] == ["READY"]
    assert len(list((workspace.root / "mlruns" / "artifacts" / "models").iterdir())) == 1


def test_a_crash_before_the_aliases_is_made_up_for(
    store: TrackingStore, run_id: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_set_aliases", None)
        with pytest.raises(TypeError):
            register(store, run_id, model)
    done = register(store, run_id, model)
    assert done == Registration("voice", 1, ["candidate", "champion"], created=False, champion=1, note=None, **WHERE)


# pages


def test_a_versions_page_has_text_figures_samples_and_an_example(
    store: TrackingStore, run_id: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "samples" / "recording").mkdir(parents=True)
    (tmp_path / "samples" / "recording" / "clip.wav").write_bytes(b"RIFF")
    tags, page = {"phase": "phase2", "step": "420", "language": "de"}, f"load {NUMBER}, listen [here]({RUN_PAGE})"
    samples = tmp_path / "samples"
    register_best(store, run_id, "voice", model, SERVING_CODE, "f00d", tags, METRICS, page=page, samples=samples)
    text = store.client.get_model_version("voice", "1").description
    assert text == f"load 1, listen [here](#/experiments/{store.experiment_id}/runs/{run_id}/artifacts)"
    [logged] = logged_models(store)
    assert {metric.key: metric.value for metric in logged.metrics} == METRICS
    assert logged.tags["mlflow.note.content"] == text
    files = artifact_folder(store, versions(store, "voice")[0]).parents[1]
    clip = samples / "recording" / "clip.wav"
    assert (files / "samples" / "recording" / "clip.wav").stat().st_ino == clip.stat().st_ino
    example = json.loads((files / "serving_input_example.json").read_text())["dataframe_split"]
    assert (example["columns"], example["data"][0][1]) == (["text", "language"], "de")
    assert (files / "input_example.json").exists()
    assert not (files / "artifacts" / "model" / "samples").exists()


def test_registering_does_not_run_the_model(
    store: TrackingStore, run_id: str, model: Path, speakers: list[Path]
) -> None:
    register(store, run_id, model)
    assert speakers == []


def test_the_models_metrics_are_the_runs_own_points(store: TrackingStore, run_id: str, model: Path) -> None:
    store.client.log_metric(run_id, "eval/mel_ce", METRICS["eval/mel_ce"], 1_700_000_000_000, 420)
    register(store, run_id, model)
    [point] = store.client.get_metric_history(run_id, "eval/mel_ce")
    assert point.timestamp == 1_700_000_000_000


@pytest.mark.parametrize("step", ["update_model_version", "set_logged_model_tags"])
def test_a_crash_before_the_page_is_whole_is_made_up_for(
    store: TrackingStore, run_id: str, model: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def once() -> None:
        tags = {"phase": "phase2", "step": "420"}
        register_best(store, run_id, "voice", model, SERVING_CODE, "f00d", tags, METRICS, page=f"load {NUMBER}")

    def crash(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.client, step, crash)
        with pytest.raises(KeyboardInterrupt):
            once()
    once()
    assert store.client.get_model_version("voice", "1").description == "load 1"
    [logged] = logged_models(store)
    assert '"voice"' in logged.tags["mlflow.modelVersions"]


# serving


@pytest.fixture
def speakers(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the real synthesis, which needs torch; the folders it was given."""
    import numpy

    folders: list[Path] = []

    class Speaker:
        def __init__(self, folder: Path) -> None:
            folders.append(folder)

        def speak(self, text: str, language: str) -> tuple[Any, int]:
            assert language in ("en", "de")
            return numpy.full(len(text), 2.0 if language == "de" else 0.5, dtype=numpy.float32), 24_000

    stub = types.ModuleType("xtts_finetune.speech.speaker")
    stub.__dict__["load_speaker"] = Speaker
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return folders


@pytest.fixture
def plain_client(store: TrackingStore) -> Iterator[None]:
    """What a user's own `mlflow` sees at the workspace's root."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.usefixtures("plain_client")
@pytest.mark.parametrize("columns", [{}, {"language": [None, "de"]}])
def test_a_candidate_loads_and_speaks(
    store: TrackingStore, run_id: str, model: Path, speakers: list[Path], columns: dict[str, list[str | None]]
) -> None:
    import mlflow.pyfunc
    import pandas

    register(store, run_id, model)
    speaker = mlflow.pyfunc.load_model("models:/voice@candidate")
    answer = speaker.predict(pandas.DataFrame({"text": ["Hi!", "Hello."], **columns}))
    assert speakers == [artifact_folder(store, versions(store, "voice")[0])]
    assert list(answer["sample_rate"]) == [24_000, 24_000]
    with wave.open(io.BytesIO(base64.b64decode(answer["audio_wav_base64"][1]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (24_000, 1, 6)
        first = int.from_bytes(file.readframes(1), "little", signed=True)
    assert first == (32767 if columns else 16383)  # clipped, not wrapped around


@pytest.mark.parametrize("damage", ["a file is gone", "all is gone", "other weights of the same size", "nothing"])
def test_registered_again_a_version_gets_back_what_it_lost(
    store: TrackingStore, run_id: str, model: Path, damage: str
) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(b"weights")
    register(store, run_id, model)
    folder = Versions.of(store, "voice").own_folder(versions(store, "voice")[0])
    assert folder
    if damage == "all is gone":
        shutil.rmtree(folder.parents[2])
    elif damage == "a file is gone":
        (folder / "model.safetensors").unlink()
    elif damage == "other weights of the same size":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    if damage != "all is gone":
        (folder / "speak.json").write_text("of then")
    (model / "speak.json").write_text("of now")
    before = (folder / "model.safetensors").stat().st_ino if damage == "nothing" else None
    again = register(store, run_id, model)
    assert (again.version, again.created) == (1, False)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder.parents[1] / "MLmodel").is_file()
    assert before in (None, (folder / "model.safetensors").stat().st_ino)
    assert (folder / "speak.json").read_text() == ("of now" if damage == "all is gone" else "of then")
