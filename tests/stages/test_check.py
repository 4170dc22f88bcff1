"""What is wrong is found before DVC deletes an out: by the stage check, which all the others wait for."""

import sys
from pathlib import Path

import pytest
from checkouts import Checkout
from making import workspaces
from making.params import ParamsFile

from xtts_finetune.core.commands import as_typed
from xtts_finetune.model.published import PUBLISHED

OUTS = ("base", "models", "checkpoints", "reports", "prepared")


def refused(checkout: Checkout) -> str:
    """What `dvc repro` says, which must not have touched any out."""
    before = checkout.files(*OUTS)
    process = checkout.start("dvc", "repro")
    _, said = process.communicate()
    assert process.returncode != 0
    assert "exited with 2" in said
    assert checkout.files(*OUTS) == before
    return said


def retype(params: ParamsFile) -> None:
    """A seed that every stage would run again for, and a typo."""
    params["seed"] = 7
    params["checkpoints"]["keep_lst"] = params["checkpoints"].pop("keep_last")


def test_a_typo_costs_no_out(copied: Checkout) -> None:
    copied.change_params(retype)
    assert "params.yaml: checkpoints.keep_lst\n      is not a known key" in refused(copied)


def test_a_mistake_in_the_consent_costs_no_out(copied: Checkout) -> None:
    consent = copied.root / "data" / "consent.yaml"
    consent.unlink()
    consent.write_text("speaker: Anna\ncontact: anna@example.org\nlicense: CC0-1.0\n", encoding="utf-8")
    copied.change_params(lambda params: params.update(seed=7))
    said = refused(copied)
    assert "consent.yaml: license\n      is not a known key\n      remedy: did you mean licence?" in said
    assert "consent.yaml: consents_to\n      is missing" in said
    assert "consent.yaml: date\n      is missing" in said


def test_status_and_disk_answer_beside_a_typo(copied: Checkout) -> None:
    copied.change_params(retype)
    for command in ("status", "disk"):
        said = copied.run("xtts-finetune", command).stdout
        assert "params.yaml: checkpoints.keep_lst" in said
        assert "did you mean keep_last?" in said
    assert "21 clips to train on" in copied.run("xtts-finetune", "status").stdout
    assert "models/" in copied.run("xtts-finetune", "disk").stdout


def test_a_language_is_refused_once(copied: Checkout) -> None:
    copied.change_params(lambda params: params["prepare"].update(language="german"))
    said = refused(copied)
    assert "params.yaml: prepare.language = 'german'\n      Input should be 'en', 'es', 'fr', 'de'" in said
    assert said.count("remedy: ") == 1


@pytest.mark.parametrize(
    ("rendezvous", "said"),
    [
        (None, "is null, and there is no XTTS_FINETUNE_RENDEZVOUS in the environment"),
        ("203.0.113.1:29400", "launch.rendezvous = 203.0.113.1:29400\n      cannot be listened at"),
        ("no-such-host.invalid:29400", "launch.rendezvous = no-such-host.invalid:29400\n      cannot be listened at"),
    ],
)
def test_machines_that_cannot_meet_cost_no_out(copied: Checkout, rendezvous: str | None, said: str) -> None:
    copied.change_params(lambda params: params["launch"].update(nodes=2, rendezvous=rendezvous))
    assert said in refused(copied)


def test_the_base_and_the_list_of_recordings_are_refused_together(copied: Checkout) -> None:
    copied.change_params(lambda params: params.update(base="xtts_v2"))
    metadata = copied.root / "data" / "metadata.csv"
    content = metadata.read_text(encoding="utf-8")
    metadata.unlink()  # a link into DVC's cache
    metadata.write_text(content + "only-an-id\n", encoding="utf-8")
    said = refused(copied)
    assert "has 1 column(s): 'only-an-id'" in said
    lacking = f"{copied.root}/base/xtts_v2\n      lacks {', '.join(PUBLISHED)}\n      remedy: "
    assert as_typed(f"{lacking}xtts-finetune base fetch --accept-licence") in said
    assert said.count("base fetch") == 1


def test_layers_that_the_base_has_not_cost_no_out(copied: Checkout) -> None:
    """mini has four."""
    copied.change_params(lambda params: params["train_phase1"].update(train_only=["gpt.h.3", "gpt.h.4.mlp"]))
    said = refused(copied)
    assert "params.yaml: train_phase1.train_only\n      names gpt.h.4.mlp; the base has gpt.h.0 to gpt.h.3" in said


def test_of_a_base_without_a_configuration_the_layers_are_xtts_v2s(copied: Checkout) -> None:
    own = copied.root.parent / "own"
    own.mkdir()
    for name in PUBLISHED:
        (own / name).write_bytes(b"\x80 as pickles begin")
    (own / "config.json").unlink()
    copied.change_params(lambda params: params.update(base="../../own"))
    copied.change_params(lambda params: params["train_phase1"].update(train_only=["gpt.h.29", "gpt.h.30"]))
    copied.change_params(lambda params: params["train_phase2"].update(train_only=["gpt.h.29", "gpt.h.30"]))
    said = refused(copied)
    assert "train_phase1.train_only\n      names gpt.h.30; the base has gpt.h.0 to gpt.h.29" in said


def test_a_folder_of_ones_own_is_not_told_to_download(copied: Checkout) -> None:
    (copied.root.parent / "own").mkdir()
    copied.change_params(lambda params: params.update(base="../../own"))
    said = refused(copied)
    assert f"{copied.root.parent / 'own'}\n      lacks vocab.json, weights (model.pth, best_model.pth or" in said
    assert "remedy: put what it lacks there" in said
    assert "base fetch" not in said


def test_only_the_check_runs_for_what_changes_no_result(copied: Checkout) -> None:
    copied.change_params(lambda params: params["tracking"].update(flush_every_steps=99))
    said = copied.repro()
    assert said.count("Running stage") == 1
    assert "Running stage 'check'" in said
    assert "up to date" in copied.run("dvc", "status").stdout
    assert "Running stage" not in copied.repro()


@pytest.fixture
def own_base(tmp_path: Path) -> Checkout:
    """A checkout whose base lies outside of it."""
    (tmp_path / "own").mkdir()
    for name in PUBLISHED:
        (tmp_path / "own" / name).write_bytes(b"\x80 as pickles begin: the first " + name.encode())
    checkout = workspaces.quick(tmp_path / "checkout")
    checkout.change_params(lambda params: params.update(base=str(tmp_path / "own")))
    return checkout


def test_a_base_outside_the_checkout_is_noticed_when_it_changes(own_base: Checkout) -> None:
    own_base.repro("check")
    before = own_base.json("base/checked.json")
    (own_base.root.parent / "own" / "model.pth").write_bytes(b"\x80 another model")
    assert str(own_base.root.parent / "own") in own_base.run("dvc", "status", "check").stdout
    own_base.repro("check")
    after = own_base.json("base/checked.json")
    assert [name for name in PUBLISHED if before[name] != after[name]] == ["model.pth"]
    assert "base/checked.json" in own_base.run("dvc", "status", "prepare").stdout


# With and without an activated environment.


def test_dvc_runs_the_environments_python_that_is_not_activated(tmp_path: Path) -> None:
    checkout = workspaces.quick(tmp_path / "checkout")
    environment = Path(sys.executable).parent.parent
    (checkout.root / ".venv").symlink_to(environment, target_is_directory=True)
    outside = "/usr/bin:/bin"  # git and sh, and no Python that has the package
    said = checkout.run("env", f"PATH={outside}", ".venv/bin/dvc", "repro", "check")
    assert "Running stage 'check'" in said.stdout
    assert checkout.json("base/checked.json") == {}
