"""The registry and reports/registration.json through DVC."""

from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from tracked import aliases, versions


def registered(checkout: Checkout) -> tuple[int, int]:
    """The version that registration.json names, which must be that of the best model here; and the candidate."""
    registration = checkout.json("reports/registration.json")
    best = checkout.json("reports/evaluation.json")["best"]
    assert registration["model_sha256"] == checkout.json(f"models/{best}/model.json")["sha256"]
    [version] = [each for each in versions(checkout) if int(each.version) == registration["version"]]
    assert version.tags["model_sha256"] == registration["model_sha256"]
    return registration["version"], aliases(checkout)["candidate"]


@pytest.mark.slow
def test_parameters_a_b_a_end_with_the_version_of_a(finished: Checkout, two_runs: Checkout, tmp_path: Path) -> None:
    """DVC's run-cache restores a training, and must not restore the evaluation without its registration."""
    assert registered(finished) == (1, 1)
    here = two_runs.copy(tmp_path / "checkout")
    assert registered(here) == (2, 2)
    assert "of the same recordings" in here.json("reports/registration.json")["note"]
    first = yaml.safe_load((finished.root / "params.yaml").read_text(encoding="utf-8"))["train_phase2"]
    here.change_params(lambda params: params.update(train_phase2=first))
    said = here.repro()
    assert "phase1: epoch" not in said
    assert "phase2: epoch" not in said
    assert here.json("models/phase2/model.json") == finished.json("models/phase2/model.json")
    assert registered(here) == (1, 1)
    assert "up to date" in here.repro()
    here.run("git", "check-ignore", "reports/registration.json")  # a clone has no registry that it could be of


@pytest.mark.slow
def test_what_sync_registers_is_no_reason_to_evaluate_again(copied: Checkout) -> None:
    def uri(value: str | None) -> None:
        copied.change_params(lambda params: params["tracking"].update(uri=value))

    uri("http://127.0.0.1:9")  # nobody is there
    copied.repro("--force", "--single-item", "evaluate")
    assert copied.json("reports/registration.json")["pending"]
    uri(None)
    copied.run("xtts-finetune", "sync")
    assert registered(copied) == (1, 1)
    assert "up to date" in copied.run("dvc", "status").stdout
    assert "Running stage" not in copied.repro()
