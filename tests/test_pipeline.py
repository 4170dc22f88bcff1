"""`dvc repro` end to end, as a user runs it: what it leaves on disk, in DVC and in MLflow."""

import csv
import hashlib
import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
import soundfile
import tracked
import yaml
from checkouts import Checkout
from making import workspaces
from making.params import ParamsFile
from making.recordings import BAD_CLIPS
from making.workspaces import CLIPS
from safetensors.numpy import load_file

from xtts_finetune.checkpoints.identity import prepared_here
from xtts_finetune.core.layout import Workspace

EVAL_CLIPS = int(0.15 * CLIPS)
PHASES = {"phase1": range(6), "phase2": range(6, 9)}  # steps of 3 an epoch, from 0
ONE_RUN_EACH = {"phase1": 1, "phase2": 1, "evaluate": 1}
STATE_FILES = ("curve-00000000.jsonl", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
BEST_FILES = ("manifest.json", "model.safetensors", "state.json")
LINKED_BYTES = 2**20  # smaller files may exist more than once


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def curve(checkout: Checkout, phase: str) -> list[dict[str, float]]:
    with (checkout.root / f"reports/curve_{phase}.csv").open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def best_of(checkout: Checkout) -> str:
    best = checkout.json("reports/evaluation.json")["best"]
    assert best in PHASES
    return str(best)


# What is on disk.


def test_prepare_leaves_features_the_base_and_a_voice(finished: Checkout) -> None:
    features = [f"{split}.{kind}" for split in ("eval", "train") for kind in ("audio.i16", "codes.i16", "jsonl")]
    base = ["base.json", "config.json", "dvae.safetensors", "gpt.safetensors", "mel_stats.safetensors", "vocab.json"]
    names = [
        *features,
        "eval.tokens.i32",
        "train.tokens.i32",
        "features.json",
        "reference.wav",
        *(f"base/{name}" for name in base),
    ]
    assert finished.files("prepared") == sorted(f"prepared/{name}" for name in names)
    vouched = {name: sha256(finished.root / "prepared" / name) for name in names if name.partition("/")[0] == "base"}
    del vouched["base/base.json"]
    vouched["reference.wav"] = sha256(finished.root / "prepared/reference.wav")
    assert finished.json("prepared/base/base.json")["digests"] == vouched


def test_the_base_says_how_much_of_it_is_trained(finished: Checkout) -> None:
    weights = load_file(finished.root / "models" / "phase1" / "model.safetensors")
    gpt = finished.json("prepared/base/base.json")["gpt"]
    assert gpt.keys() == {"path", "sha256", "parameters", "shapes"}
    assert gpt["parameters"] == sum(value.size for value in weights.values())


def test_bad_clips_are_reported_with_their_reasons_and_the_others_used(finished: Checkout) -> None:
    report = finished.json("reports/dataset.json")
    counts = {"accepted": CLIPS, "rejected": len(BAD_CLIPS), "train": CLIPS - EVAL_CLIPS, "eval": EVAL_CLIPS}
    assert report["clips"] == counts | {"read": CLIPS + len(BAD_CLIPS)}
    reasons = {clip["id"]: clip["reason"] for clip in report["rejected"]}
    assert list(reasons) == list(BAD_CLIPS)
    for name, reason in BAD_CLIPS.items():
        assert reasons[name].startswith(reason), name
    assert [clip["line"] for clip in report["rejected"]] == list(range(CLIPS + 1, CLIPS + 1 + len(BAD_CLIPS)))


def test_the_codebook_is_in_use(finished: Checkout) -> None:
    assert finished.json("reports/dataset.json")["base"]["codebook_perplexity"] > 500


def test_each_phase_leaves_its_states_and_its_best(finished: Checkout) -> None:
    expected = {"phase1": (4, 6), "phase2": (8, 9)}  # keep_last: 2
    for phase, steps in expected.items():
        folder, best = f"checkpoints/{phase}", finished.json(f"models/{phase}/model.json")["step"]
        files = [f"{folder}/step-{step:08d}/{name}" for step in steps for name in STATE_FILES]
        files += [f"{folder}/best-{best:08d}/{name}" for name in BEST_FILES]
        assert finished.files(folder) == sorted([*files, f"{folder}/DONE"])
    for phase in PHASES:
        model = finished.root / "models" / phase
        assert finished.files(f"models/{phase}") == [f"models/{phase}/model.json", f"models/{phase}/model.safetensors"]
        card = finished.json(f"models/{phase}/model.json")
        assert card["sha256"] == sha256(model / "model.safetensors")
        assert card["trained_with"] == prepared_here(Workspace(finished.root))
        assert len(card["trained_with"]) == 3


def test_the_running_phases_folders_are_gone_when_dvc_has_their_outs(finished: Checkout) -> None:
    assert not (finished.root / "work" / "phase1").exists()
    assert not (finished.root / "work" / "phase2").exists()


def test_reports_are_complete(finished: Checkout) -> None:
    expected = {"dataset.json", "dataset.png", "croissant.json", "evaluation.json", "registration.json", "curves.png"}
    expected |= {".gitignore", "status.md", "status.svg", "index.html"}
    for phase in PHASES:
        expected |= {f"train_{phase}.json", f"curve_{phase}.csv"}
    expected |= {f"samples/{model}/{name}.wav" for model in ("base", *PHASES) for name in ("1", "clip")}
    expected |= {"samples/recording/clip.wav", "samples/sentences.csv"}
    assert finished.files("reports") == sorted(f"reports/{name}" for name in expected)
    for name in ("dataset.png", "curves.png"):
        assert (finished.root / "reports" / name).read_bytes().startswith(b"\x89PNG")


def test_every_model_speaks(finished: Checkout) -> None:
    for model in ("base", *PHASES):
        sound, rate = soundfile.read(finished.root / f"reports/samples/{model}/1.wav")
        assert rate == 22_050
        assert 0 < len(sound) <= 1.1 * rate  # evaluate.max_seconds: 1.0


def test_nothing_is_left_half_written(finished: Checkout) -> None:
    assert finished.leftovers() == []


def test_git_sees_only_what_is_to_be_committed(finished: Checkout) -> None:
    """Reports are text to commit; recordings, models, states and runs never show up."""
    status = finished.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    text = [".gitignore", "evaluation.json"]
    text += [name for phase in PHASES for name in (f"train_{phase}.json", f"curve_{phase}.csv")]
    assert sorted(status.splitlines()) == sorted(f"?? {name}" for name in ["dvc.lock", *(f"reports/{n}" for n in text)])


def test_every_byte_exists_once(finished: Checkout) -> None:
    """Workspace, cache, retained states, best and registry share their files: one inode for one content."""
    inodes: dict[str, set[int]] = defaultdict(set)
    for name in finished.files("prepared", "checkpoints", "models", "mlruns", ".dvc/cache"):
        file = finished.root / name
        if file.stat().st_size > LINKED_BYTES:
            inodes[sha256(file)].add(file.stat().st_ino)
    assert len(inodes) > 8  # base, two states of weights and optimiser a phase
    assert [content for content, nodes in inodes.items() if len(nodes) > 1] == []


# What the figures say.


def test_the_phases_join_up(finished: Checkout) -> None:
    """Phase 2 starts where phase 1's best was measured, and counts on from its last step."""
    phase1, phase2 = (finished.json(f"reports/train_{phase}.json") for phase in PHASES)
    assert (phase1["last_step"], phase2["last_step"]) == (6, 9)
    assert phase2["start"]["mel_ce"] == phase1["eval"]["mel_ce"]
    assert phase2["start"]["text_ce"] == phase1["eval"]["text_ce"]
    assert curve(finished, "phase1")[-1]["step"] == curve(finished, "phase2")[0]["step"] == 6


def test_the_model_learns(finished: Checkout) -> None:
    evaluation = finished.json("reports/evaluation.json")
    assert evaluation["base"]["mel_ce"] == pytest.approx(math.log(1026), abs=0.3)
    assert evaluation["phase1"]["mel_ce"] < evaluation["base"]["mel_ce"] - 0.3
    assert evaluation["best"] == min(PHASES, key=lambda phase: evaluation[phase]["mel_ce"])


def test_evaluate_measures_what_training_measured(finished: Checkout) -> None:
    evaluation = finished.json("reports/evaluation.json")
    for phase in PHASES:
        trained = finished.json(f"reports/train_{phase}.json")["eval"]
        assert evaluation[phase] == pytest.approx(trained, rel=1e-6)
        assert trained["text_ce_weighted"] == pytest.approx(0.01 * trained["text_ce"])
    assert evaluation["base"]["mel_ce"] == pytest.approx(
        finished.json("reports/train_phase1.json")["start"]["mel_ce"], rel=1e-6
    )


def test_the_curves_are_those_of_the_figures(finished: Checkout) -> None:
    for phase in PHASES:
        best = finished.json(f"reports/train_{phase}.json")
        rows = curve(finished, phase)
        by_step = {row["step"]: row["eval_mel_ce"] for row in rows}
        assert by_step[best["step"]] == pytest.approx(best["eval"]["mel_ce"], rel=1e-5)
        assert min(by_step.values()) == by_step[best["step"]]
        assert [math.isnan(row["train_mel_ce"]) for row in rows] == [True] + [False] * (len(rows) - 1)


# What MLflow holds.


def test_mlflow_has_one_run_a_phase_and_one_of_the_evaluation(finished: Checkout) -> None:
    runs = tracked.runs(finished)
    assert {phase: len(of_phase) for phase, of_phase in runs.items()} == ONE_RUN_EACH
    assert {run.info.status for [run] in runs.values()} == {"FINISHED"}


@pytest.mark.parametrize("phase", PHASES)
def test_every_step_is_logged_once(finished: Checkout, phase: str) -> None:
    [run] = tracked.runs(finished)[phase]
    steps = PHASES[phase]
    for metric in ("train/mel_ce", "train/text_ce", "train/loss", "train/lr", "train/grad_norm"):
        assert [step for step, _ in tracked.history(finished, run, metric)] == [step + 1 for step in steps], metric
    for metric, column in ("eval/mel_ce", "eval_mel_ce"), ("eval/text_ce", "eval_text_ce"):
        rows = [(row["step"], pytest.approx(row[column], rel=1e-5)) for row in curve(finished, phase)]
        assert tracked.history(finished, run, metric) == rows


def test_runs_say_what_they_were_made_of(finished: Checkout) -> None:
    head = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    data = yaml.safe_load((finished.root / "data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    params = yaml.safe_load((finished.root / "params.yaml").read_text(encoding="utf-8"))
    for phase, [run] in tracked.runs(finished).items():
        section = params["evaluate" if phase == "evaluate" else f"train_{phase}"]
        expected = {name: str(value) for name, value in section.items()} | {"seed": "42", "base": "mini"}
        assert run.data.params == expected
        assert (run.data.tags["git_commit"], run.data.tags["git_dirty"]) == (head, "false")
        assert run.data.tags["torch"].startswith("2.11.0")
        [used] = run.inputs.dataset_inputs
        assert used.dataset.digest == run.data.tags["data_md5"] == data


def test_samples_and_curves_are_in_mlflow(finished: Checkout) -> None:
    [run] = tracked.runs(finished)["evaluate"]
    assert tracked.artifacts(finished, run) == ["curves.png", "samples"]
    folders = ("base", *PHASES, "recording", "sentences.csv")
    assert tracked.artifacts(finished, run, "samples") == [f"samples/{name}" for name in folders]


def test_all_runs_come_under_one(finished: Checkout) -> None:
    [pipeline] = tracked.pipelines(finished)
    runs = [run for [run] in tracked.runs(finished).values()]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {pipeline.info.run_id}
    figures = finished.json("reports/evaluation.json")
    for model in ("base", *PHASES):
        assert pipeline.data.metrics[f"{model}/mel_ce"] == pytest.approx(figures[model]["mel_ce"], abs=1e-4)
    assert (pipeline.info.status, pipeline.data.tags["registered"]) == ("FINISHED", "1")


def test_only_the_best_is_registered(finished: Checkout) -> None:
    [version] = tracked.versions(finished)
    assert tracked.aliases(finished) == {"candidate": 1, "champion": 1}
    best = best_of(finished)
    card = finished.json(f"models/{best}/model.json")
    expected = {
        "phase": best,
        "step": str(card["step"]),
        "base": "mini",
        "language": "en",
        "model_sha256": card["sha256"],
        "git_commit": finished.run("git", "rev-parse", "HEAD").stdout.strip(),
        "data_md5": finished.lock()["prepare"]["data"]["md5"],
        "split_digest": finished.json("reports/dataset.json")["split_digest"],
    }
    assert {name: version.tags[name] for name in expected} == expected
    figures = finished.json("reports/evaluation.json")[best]
    assert float(version.tags["eval_mel_ce"]) == figures["mel_ce"]
    assert float(version.tags["eval_text_ce"]) == figures["text_ce"]


def test_the_registered_weights_are_the_best_models_file(finished: Checkout) -> None:
    [registered] = [name for name in finished.files("mlruns") if name.endswith("/model.safetensors")]
    exported = finished.root / "models" / best_of(finished) / "model.safetensors"
    assert (finished.root / registered).samefile(exported)


# What DVC shows.


def test_dvc_lock_names_every_stage_and_out(finished: Checkout) -> None:
    outs = {
        "check": ["checked.json"],  # as seen from base/
        "prepare": ["prepared", "reports/croissant.json", "reports/dataset.json", "reports/dataset.png"],
        "evaluate": [
            *("reports/samples", "reports/evaluation.json", "reports/curves.png", "reports/registration.json"),
        ],
    }
    for phase in PHASES:
        outs[f"train_{phase}"] = [f"{folder}/{phase}" for folder in ("checkpoints", "models")]
        outs[f"train_{phase}"] += [f"reports/train_{phase}.json", f"reports/curve_{phase}.csv"]
    lock = yaml.safe_load((finished.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert {stage: sorted(out["path"] for out in locked["outs"]) for stage, locked in lock.items()} == {
        stage: sorted(paths) for stage, paths in outs.items()
    }


def test_compiled_python_is_no_dependency(finished: Checkout) -> None:
    """Else a clone, another Python or a test run would train anew."""
    folder = finished.root / "src" / "xtts_finetune" / "speech"
    assert list(folder.glob("__pycache__/*.pyc")), "the stages leave compiled files beside their sources"
    dependency = finished.lock()["evaluate"]["src/xtts_finetune/speech"]
    assert dependency["nfiles"] == len(list(folder.glob("*.py")))


def test_dvc_shows_the_metrics(finished: Checkout) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    for phase in PHASES:
        assert shown[f"reports/train_{phase}.json"]["data"] == finished.json(f"reports/train_{phase}.json")
    assert "reports/evaluation.json" not in shown, "it has the same figures, and would show each twice"


def test_dvc_joins_the_curves_of_both_phases(finished: Checkout) -> None:
    """Vega takes an empty cell for 0: the line would start at the bottom of the plot."""
    shown = json.loads(finished.run("dvc", "plots", "show", "--show-vega", "Mel CE").stdout)
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for point in shown["data"]["values"]:
        value = float(point["dvc_inferred_y_value"])
        if not math.isnan(value):
            lines[point["filename::field"]].append((float(point["step"]), value))
    assert lines == {
        f"curve_{phase}.csv::{column}": [(row["step"], row[column]) for row in rows if not math.isnan(row[column])]
        for phase in PHASES
        for rows in [curve(finished, phase)]
        for column in ("eval_train_mel_ce", "eval_mel_ce")
    }


# Running it again.


def test_a_second_repro_runs_nothing(finished: Checkout) -> None:
    before = {name: (finished.root / name).stat().st_mtime_ns for name in finished.files("models", "reports", "mlruns")}
    said = finished.repro()
    assert "Running stage" not in said
    assert "Data and pipelines are up to date." in said
    assert "up to date" in finished.run("dvc", "status").stdout
    assert {name: (finished.root / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.slow
def test_a_second_evaluation_registers_nothing(copied: Checkout) -> None:
    """Forced, in a checkout that was moved: the same version, the same run."""
    said = copied.repro("--force", "--single-item", "evaluate")
    assert "already registered: xtts-finetune version 1" in said
    assert len(tracked.versions(copied)) == 1
    assert {phase: len(of_phase) for phase, of_phase in tracked.runs(copied).items()} == dict.fromkeys(
        (*PHASES, "evaluate"), 1
    )
    assert tracked.aliases(copied) == {"candidate": 1, "champion": 1}


def test_what_changes_no_result_invalidates_nothing(copied: Checkout) -> None:
    """Commands, reports, the store, and params of checkpoints and tracking: those, only the check looks at."""
    for name in ("cli.py", "commands.py", "tracking/registry.py", "core/errors.py"):
        with (copied.root / "src/xtts_finetune" / name).open("a", encoding="utf-8") as file:
            file.write("# a remark\n")

    def keep_more(params: ParamsFile) -> None:
        params["checkpoints"] = {"save_every_steps": 7, "keep_last": 5}
        params["tracking"]["flush_every_steps"] = 99

    copied.change_params(keep_more)
    assert list(json.loads(copied.run("dvc", "status", "--json").stdout)) == ["check"]


def test_a_phases_params_invalidate_it_alone(copied: Checkout) -> None:
    copied.change_params(lambda params: params["train_phase2"].update(lr=1e-5))
    changed = json.loads(copied.run("dvc", "status", "--json").stdout)
    assert list(changed) == ["check", "train_phase2"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_clones_train_the_same_models(finished: Checkout, tmp_path: Path) -> None:
    """From the recordings on, byte for byte: features, codec, states, models, curves."""
    other = workspaces.quick(tmp_path / "another folder" / "checkout")
    other.repro("train_phase2")
    lock = finished.lock()
    for stage, items in other.lock().items():
        assert {path: item["md5"] for path, item in items.items()} == {
            path: item["md5"] for path, item in lock[stage].items()
        }, stage
