"""`xtts-finetune restore`: a registered version comes back into models/, and it says whether DVC agrees."""

import shutil

import pytest
import tracked
from checkouts import Checkout
from cleaning import digests

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import files_below, held_bytes

pytestmark = pytest.mark.slow  # MLflow takes seconds to load


def restore(checkout: Checkout, version: str, code: int = 0) -> str:
    done = checkout.run("xtts-finetune", "restore", version, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def held(checkout: Checkout) -> int:
    """Bytes, but for what Python compiles."""
    return held_bytes(file for file in files_below(checkout.root) if file.parent.name != "__pycache__")


def write_over(checkout: Checkout, name: str, content: bytes) -> None:
    """Not in place: it has names elsewhere."""
    (checkout.root / name).unlink()
    (checkout.root / name).write_bytes(content)


def test_it_comes_back_without_a_byte_more_and_dvc_agrees(own: Checkout, finished: Checkout) -> None:
    before = held(own)
    phase = tracked.versions(own)[0].tags["phase"]
    shutil.rmtree(own.root / "models" / phase)
    said = restore(own, "1")
    assert f"models/{phase}: version 1 (candidate, champion): the best of {phase}, Mel CE" in said
    assert "dvc.lock names it" in said
    assert digests(own, "models") == digests(finished, "models")
    assert held(own) == pytest.approx(before, abs=50_000)
    assert "up to date" in own.run("dvc", "status").stdout
    assert "dvc.lock names it" in restore(own, "champion")  # again, over what DVC has, too


def test_where_dvc_names_another_it_says_who_names_this_one(copied: Checkout, finished: Checkout) -> None:
    copied.commit()
    phase = tracked.versions(copied)[0].tags["phase"]
    weights = f"models/{phase}/model.safetensors"
    write_over(copied, weights, b"another")
    copied.run("dvc", "commit", "--force", "--quiet", f"train_{phase}")
    said = restore(copied, "champion")
    assert "named by HEAD, branch" in said
    assert as_typed("git stash && dvc checkout") in said
    assert digests(copied, "models") == digests(finished, "models")
    copied.run("git", "stash")
    copied.run("dvc", "checkout")
    assert "up to date" in copied.run("dvc", "status").stdout


def test_where_nothing_names_it_it_says_how_to_keep_it(copied: Checkout) -> None:
    phase = tracked.versions(copied)[0].tags["phase"]
    write_over(copied, f"models/{phase}/model.safetensors", b"another")
    copied.run("dvc", "commit", "--force", "--quiet", f"train_{phase}")
    assert f"dvc commit -f train_{phase}" in restore(copied, "champion")
    copied.run("dvc", "commit", "--force", "--quiet", f"train_{phase}")
    assert f"train_{phase}" not in copied.run("dvc", "status").stdout


def test_the_only_copy_of_a_model_is_not_overwritten(copied: Checkout) -> None:
    phase = tracked.versions(copied)[0].tags["phase"]
    write_over(copied, f"models/{phase}/model.safetensors", b"mine alone")
    said = restore(copied, "champion", code=2)
    assert "here may be its only copy" in said
    assert f"mv models/{phase} models/{phase}.mine" in said
    assert (copied.root / f"models/{phase}/model.safetensors").read_bytes() == b"mine alone"


def test_a_version_that_is_not_what_was_registered_is_refused(copied: Checkout, finished: Checkout) -> None:
    [weights] = (copied.root / "mlruns" / "artifacts").rglob("model.safetensors")
    content = weights.read_bytes()
    write_over(copied, weights.relative_to(copied.root).as_posix(), content[:-1] + b"?")
    assert "not those that were registered" in restore(copied, "champion", code=2)
    assert digests(copied, "models") == digests(finished, "models")
    weights.unlink()
    assert "its files cannot be had" in restore(copied, "champion", code=2)
    assert digests(copied, "models") == digests(finished, "models")
    assert copied.leftovers() == []


def test_an_unknown_version_is_refused_with_those_that_there_are(copied: Checkout) -> None:
    said = restore(copied, "7", code=2)
    figures = copied.json("reports/evaluation.json")
    assert f"version 1 (candidate, champion): the best of {figures['best']}, Mel CE" in said
