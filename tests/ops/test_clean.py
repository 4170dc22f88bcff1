"""`xtts-finetune clean`: what goes, what stays, the bytes, and what DVC and MLflow say afterwards."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from checkouts import Checkout
from cleaning import (
    KEPT_STATE,
    OLDER_STATE,
    assert_nothing_to_do,
    assert_registry_is_whole,
    clean,
    digests,
    promised,
    size,
    states,
)
from damage import replace_flipped
from filelock import FileLock
from leftovers import half
from making.project import PROJECT

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import Stopped
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import DONE, PHASES, Workspace
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.stages.stops import explained_stops
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.outbox import new_tracked_run
from xtts_finetune.tracking.waiting import waiting

# What it shows.


def test_without_an_option_it_shows_every_plan_and_changes_nothing(finished: Checkout) -> None:
    before = _everything(finished)
    said = clean(finished)
    for expected in ("intermediates: frees", "best-only: frees", "free at", "registered (candidate, champion)"):
        assert expected in said
    for option in ("--intermediates", "--best-only", "--archive REMOTE [--restore]"):
        assert f"xtts-finetune clean {option} --yes" in said
    alone = clean(finished, "--best-only")
    assert as_typed("do it: xtts-finetune clean --best-only --yes") in alone
    assert _everything(finished) == before


def _everything(checkout: Checkout) -> dict[str, int]:
    names = (name for name in checkout.files(".") if "__pycache__" not in name)
    return {name: (checkout.root / name).lstat().st_mtime_ns for name in names}


def test_help_says_what_stays_and_what_each_option_keeps(finished: Checkout) -> None:
    said = " ".join(clean(finished, "--help").split())
    assert "The best of every phase, the recordings and what a live trainer holds always stay." in said
    assert "So do registered models, but for --versions" in said
    for option in ("--intermediates", "--best-only", "--archive REMOTE", "--restore", "--versions", "--yes", "--force"):
        assert option in said


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--intermediates", "--best-only"], "choose one of them"),
        (["--restore"], "add --archive REMOTE"),
        (["--yes"], "choose --intermediates, --best-only or --archive REMOTE"),
    ],
)
def test_what_makes_no_sense_is_refused(finished: Checkout, arguments: list[str], remedy: str) -> None:
    assert remedy in clean(finished, *arguments, code=2)


def test_outside_a_checkout_it_says_where_to_go(tmp_path: Path) -> None:
    command = ("env", f"PYTHONPATH={PROJECT / 'src'}", "xtts-finetune", "clean", "--best-only", "--yes")
    assert "run this in the project's root" in Checkout(tmp_path).run(*command, code=2).stderr


# What it does.


def test_dvcs_list_of_locks_that_a_full_disk_cut_short(own: Checkout) -> None:
    """DVC refuses everything then, by a message that names no remedy."""
    cut = own.root / ".dvc" / "tmp" / "rwlock"
    cut.write_text('{"read": {"/voices/an', encoding="utf-8")
    said = clean(own, "--intermediates", "--yes", code=2)
    assert "delete .dvc/tmp/rwlock" in " ".join(said.split())
    cut.unlink()
    assert "intermediates: frees" in clean(own, "--intermediates", "--yes")


def test_intermediates_leave_the_newest_states_and_the_best(own: Checkout, finished: Checkout) -> None:
    before = size(own)
    models = digests(own, "models", "prepared", "data", "reports")
    planned = promised(clean(own, "--intermediates"))
    said = clean(own, "--intermediates", "--yes")
    gone = before - size(own)
    assert gone == pytest.approx(planned, rel=0.01)
    assert gone > 180e6  # a state of each phase: weights and optimiser
    assert promised(said) == planned
    assert " freed\n" in said
    for phase in PHASES:
        assert states(own, phase) == [KEPT_STATE[phase]]
        assert Checkpoint(own.root / "checkpoints" / phase / KEPT_STATE[phase], 0).damage() is None
    assert digests(own, "models", "prepared", "data", "reports") == models
    assert_nothing_to_do(own)
    assert_registry_is_whole(own, finished)
    assert "nothing to free" in clean(own, "--intermediates", "--yes")


def test_best_only_leaves_the_exported_models(own: Checkout, finished: Checkout) -> None:
    before = size(own)
    models = digests(own, "models", "prepared", "data", "reports")
    plan = clean(own, "--best-only")
    assert "more epochs will start this phase afresh" in plan
    clean(own, "--best-only", "--yes")
    assert before - size(own) == pytest.approx(promised(plan), rel=0.01)
    assert own.files("checkpoints") == []
    assert digests(own, "models", "prepared", "data", "reports") == models
    assert_nothing_to_do(own)
    assert_registry_is_whole(own, finished)


@pytest.mark.slow
def test_the_champion_speaks_after_all_of_it_went(own: Checkout) -> None:
    clean(own, "--best-only", "--force", "--yes")
    program = (
        "import mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model('models:/xtts-finetune@champion')\n"
        "said = model.predict(pandas.DataFrame({'text': ['Welcome back!'], 'language': ['en']}))\n"
        "print(said.sample_rate[0], len(said.audio_wav_base64[0]))\n"
    )
    rate, length = own.run("python", "-c", program).stdout.split()[-2:]
    assert rate == "22050"
    assert int(length) > 1000


def test_a_damaged_state_is_none_to_keep_for(own: Checkout) -> None:
    """The newest looks whole by its sizes; the older one is what there is to resume from."""
    work = own.root / "work" / "phase1"
    (own.root / "checkpoints" / "phase1").rename(work)
    (own.root / "checkpoints" / "phase1").mkdir()
    (work / "DONE").unlink()
    newest = work / KEPT_STATE["phase1"] / "optimizer.safetensors"
    replace_flipped(newest)
    plan = make_plan(Workspace(own.root), Request("intermediates"), verify=True)
    going = [path.name for item in plan.items for path in item.paths]
    assert going == [KEPT_STATE["phase1"], OLDER_STATE["phase2"]]
    assert f"work/phase1/{OLDER_STATE['phase1']}" in [kept.what for kept in plan.kept]


def test_a_damaged_export_keeps_its_states(own: Checkout) -> None:
    weights = own.root / "models" / "phase1" / "model.safetensors"
    replace_flipped(weights)
    said = clean(own, "--best-only", "--yes", code=2)
    assert "models/phase1" in said
    assert "is modified" in said
    assert "dvc checkout" in said
    assert states(own, "phase1") == [OLDER_STATE["phase1"], KEPT_STATE["phase1"]]
    plan = make_plan(Workspace(own.root), Request("best_only"), verify=True)
    assert ("checkpoints/phase1", "models/phase1 is missing or damaged, or dvc.lock does not name these states") in [
        (k.what, k.why) for k in plan.kept
    ]


def test_a_finished_run_that_is_not_there_is_not_swept_away(own: Checkout) -> None:
    """As a stash or a failed `dvc exp apply` leaves it: dvc.lock names what is not here."""
    (own.root / "models").rename(own.root / "elsewhere")
    cached = own.files(".dvc/cache")
    said = clean(own, "--intermediates", "--yes", code=2)
    assert "models/phase1" in said
    assert "is deleted" in said
    assert "dvc checkout" in said
    assert own.files(".dvc/cache") == cached
    assert states(own, "phase1") == [OLDER_STATE["phase1"], KEPT_STATE["phase1"]]


@pytest.mark.slow
def test_old_states_are_not_passed_off_as_those_of_new_parameters(own: Checkout) -> None:
    own.change_params(lambda params: params["train_phase2"].update(lr=1e-5))
    clean(own, "--intermediates", "--yes")
    assert states(own, "phase2") == [KEPT_STATE["phase2"]]
    assert "train_phase2" in own.run("dvc", "status", "--json").stdout


@pytest.mark.slow
def test_states_of_a_run_that_is_being_replaced_go_from_the_cache(own: Checkout) -> None:
    """DVC deletes a stage's outs before it runs, and dvc.lock goes on naming them: no gc frees them."""
    own.change_params(lambda params: params["train_phase1"].update(lr=2e-3))
    model = digests(own, "models/phase1")
    for name in ("checkpoints/phase1", "models/phase1"):
        own.run("rm", "-r", name)
    before = size(own)
    planned = promised(clean(own, "--best-only"))
    clean(own, "--best-only", "--yes")
    assert before - size(own) == pytest.approx(planned, rel=0.01)
    assert planned > 300e6  # both phases' states
    own.run("dvc", "checkout", "models/phase1")
    assert digests(own, "models/phase1") == model


@pytest.mark.slow
def test_what_kills_left_behind_goes(own: Checkout) -> None:
    folders = [half(own.root / name) / "model.safetensors" for name in ("register", "models/phase1", "work/phase1")]
    files = [own.root / "work/phase1.reserve", *(half(own.root / name) for name in ("reports/curves.png", "mlruns/x"))]
    left = [*folders, *files]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1_000_000))
    assert promised(clean(own, "--intermediates")) > 188e6 + 5e6
    clean(own, "--intermediates", "--yes")
    assert [file for file in left if file.exists()] == []
    assert_nothing_to_do(own)


@pytest.mark.slow
def test_what_a_trainer_holds_stays_even_by_force(own: Checkout) -> None:
    """A state that looks expendable, a reserve, and half-written files that may be its own."""
    for name in ("work/phase1/step-00000001", "work/phase1/step-00000002"):
        (own.root / name).mkdir(parents=True)
        (own.root / name / "model.safetensors").write_bytes(bytes(1000))
        (own.root / name / "manifest.json").write_text('{"files": {"model.safetensors": {"bytes": 1000}}}')
    (own.root / "work/phase1.reserve").write_bytes(bytes(1000))
    (own.root / "reports/.curve_phase1.csv.99.tmp").touch()
    (own.root / "work/phase2.lock").touch()
    held = own.files("work", "reports", "checkpoints/phase1")
    with FileLock(own.root / "work" / "phase1.lock"):
        said = clean(own, "--best-only", "--force", "--yes")
    assert "a trainer is at work here" in said
    assert own.files("work", "reports", "checkpoints/phase1") == held
    assert own.files("checkpoints/phase2") == []


@pytest.mark.slow
def test_earlier_recordings_stay_and_by_force_those_that_nothing_names_go(own: Checkout) -> None:
    data, name = own.root / "data", own.root / "data.dvc"
    earlier = name.read_text(encoding="utf-8")
    dropped = sorted(data.glob("wavs/*.ogg"))[0]
    content = dropped.read_bytes()
    dropped.unlink()
    own.run("dvc", "add", "--quiet", "data")
    later = name.read_text(encoding="utf-8")
    assert "named by HEAD" in clean(own, "--intermediates", "--force", "--yes")
    own.run("git", "commit", "--quiet", "--all", "--amend", "--no-edit")
    assert "earlier recordings in DVC's cache" in clean(own, "--intermediates", "--yes")
    assert not (own.root / ".kept-by-clean").exists()
    name.write_text(earlier, encoding="utf-8")
    own.run("dvc", "checkout", "data")
    assert dropped.read_bytes() == content
    name.write_text(later, encoding="utf-8")
    own.run("dvc", "checkout", "data")
    clean(own, "--intermediates", "--force", "--yes")
    name.write_text(earlier, encoding="utf-8")
    own.run("dvc", "checkout", "data", code=255)


@pytest.mark.slow
def test_objects_in_a_shared_cache_stay(own: Checkout, tmp_path: Path) -> None:
    (own.root / ".dvc" / "cache").rename(tmp_path / "shared")
    own.run("dvc", "cache", "dir", str(tmp_path / "shared"))
    (tmp_path / "shared/files/md5/aa").mkdir(exist_ok=True)
    other = tmp_path / "shared/files/md5/aa" / ("b" * 30)
    other.write_text("of another project", encoding="utf-8")
    said = clean(own, "--best-only", "--yes")
    assert "other projects may keep theirs there" in said
    assert other.exists()
    assert_nothing_to_do(own)


def test_what_mlflow_lacks_of_a_phase_that_goes_is_kept(own: Checkout) -> None:
    """A server was down, and no stage ran since that would have set it aside."""
    workspace = Workspace(own.root)
    work = workspace.work("phase1")
    shutil.copytree(workspace.checkpoints("phase1"), work, copy_function=os.link)
    Curve(work / "curve.jsonl").append({"step": 1, "epoch": 0, "train/loss": 4.0})
    write_json(work / "delivery.json", asdict(new_tracked_run("0123456789abcdef", "phase1", {}, {})))
    clean(own, "--intermediates", "--yes")
    assert not work.exists()
    assert [run.points for run in waiting(workspace)] == [1]


def test_the_page_of_a_stop_goes_with_what_it_promises(untrained: Checkout, finished: Checkout) -> None:
    """Not while there is a state to resume from."""
    workspace = Workspace(untrained.root)
    shutil.copytree(Workspace(finished.root).checkpoints("phase1"), workspace.work("phase1"))
    (workspace.work("phase1") / DONE).unlink()
    stop = "phase1 is saved at step 6"
    with pytest.raises(Stopped), explained_stops(workspace):
        raise Stopped(f"{stop}; run dvc repro again to resume")
    clean(untrained, "--best-only", "--yes")
    assert stop in untrained.run("xtts-finetune", "status").stdout
    clean(untrained, "--best-only", "--force", "--yes")
    assert stop not in untrained.run("xtts-finetune", "status").stdout
