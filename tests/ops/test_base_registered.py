"""`xtts-finetune base fetch models:/…`: a registered model into base/, and a run that starts from it."""

import shutil

import pytest
from checkouts import Checkout
from damage import replace_flipped

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import files_below, held_bytes

pytestmark = pytest.mark.slow  # MLflow takes seconds to load
CHAMPION = "models:/xtts-finetune@champion"


def fetch(checkout: Checkout, what: str, code: int = 0) -> str:
    done = checkout.run("xtts-finetune", "base", "fetch", what, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.timeout(900)
def test_a_fine_tune_goes_on_from_the_champion(copied: Checkout) -> None:
    before, vocabulary = copied.json("reports/evaluation.json"), copied.root / "prepared" / "base" / "vocab.json"
    spelling = vocabulary.read_bytes()
    copied.change_params(lambda params: params.update(base=CHAMPION))
    held = held_bytes(files_below(copied.root / "mlruns", copied.root / "base"))
    said = fetch(copied, CHAMPION)
    folder = copied.root / "base" / "xtts-finetune-1"
    assert f"{folder}: version 1 (candidate, champion): the best of" in said
    assert said.endswith("In params.yaml: base: xtts-finetune-1\n")
    assert held_bytes(files_below(copied.root / "mlruns", copied.root / "base")) == pytest.approx(held, abs=50_000)
    assert "is there already" in fetch(copied, "models:/xtts-finetune/1")

    copied.change_params(lambda params: params.update(base="xtts-finetune-1"))
    copied.repro()
    after = copied.json("reports/evaluation.json")
    assert after["base"]["mel_ce"] == pytest.approx(before[before["best"]]["mel_ce"], abs=1e-6)
    assert vocabulary.read_bytes() == spelling
    info = copied.json("prepared/base/base.json")
    assert (info["vocoder"], info["gpt"]["path"]) == ("griffin_lim", "base/xtts-finetune-1/model.safetensors")
    assert set(copied.json("base/checked.json")) == {
        "model.safetensors",
        *(f"base/{name}" for name in ("config.json", "vocab.json", "mel_stats.safetensors", "dvae.safetensors")),
    }
    assert "up to date" in copied.run("dvc", "status").stdout


def test_what_is_not_there_or_not_what_was_registered(copied: Checkout) -> None:
    assert "there is no such version; there is:\n        version 1 (candidate" in fetch(
        copied, "models:/xtts-finetune/7", code=2
    )
    assert "no version of it is registered" in fetch(copied, "models:/another@champion", code=2)
    said = fetch(copied, "xtts-finetune@champion", code=2)
    assert as_typed("as in: xtts-finetune base fetch models:/xtts-finetune@champion") in said
    [weights] = (copied.root / "mlruns" / "artifacts").rglob("model.safetensors")
    replace_flipped(weights)
    assert "its weights are not those that were registered" in fetch(copied, CHAMPION, code=2)
    shutil.rmtree(weights.parent / "base")
    assert "its files cannot be had" in fetch(copied, CHAMPION, code=2)
    assert copied.files("base") == [f"base/{name}" for name in ("README.md", "checked.json", "mini/README.md")] + [
        "base/xtts_v2/README.md"
    ]


def test_params_that_name_an_alias_say_what_to_type(copied: Checkout) -> None:
    copied.change_params(lambda params: params.update(base=CHAMPION))
    process = copied.start("dvc", "repro")  # DVC looks for the folder before check can say a word
    assert f"No such file or directory: '{copied.root}/base/{CHAMPION}'" in process.communicate()[1]
    for command in (("xtts-finetune", "status"), ("python", "-m", "xtts_finetune.stages", "check")):
        done = copied.start(*command)
        assert as_typed(f"xtts-finetune base fetch {CHAMPION}, which says what to write here") in "".join(
            done.communicate()
        )
