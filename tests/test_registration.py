"""The registry and reports/registration.json through DVC."""

import pytest
from checkouts import Checkout
from making.params import ParamsFile
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
def test_parameters_a_b_a_end_with_the_version_of_a(copied: Checkout) -> None:
    """DVC's run-cache restores both trainings, and must not restore the evaluation without its registration."""

    def lr(value: float) -> None:
        def change(params: ParamsFile) -> None:
            params["train_phase1"]["lr"] = value

        copied.change_params(change)

    assert registered(copied) == (1, 1)
    before = copied.json("models/phase2/model.json")
    lr(5e-4)
    copied.repro()
    assert registered(copied) == (2, 2)
    assert "of the same recordings" in copied.json("reports/registration.json")["note"]
    lr(1e-3)
    copied.repro()
    assert copied.json("models/phase2/model.json") == before
    assert registered(copied) == (1, 1)
    assert "up to date" in copied.repro()
    copied.run("git", "check-ignore", "reports/registration.json")  # a clone has no registry that it could be of


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
