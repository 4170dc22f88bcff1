"""`xtts-finetune promote` as it is typed, on models that were trained."""

from typing import Any

import pytest
from checkouts import Checkout
from tracked import aliases, versions

from xtts_finetune.core.files import write_json
from xtts_finetune.tracking.registry import EVAL_TAG

pytestmark = pytest.mark.slow
MODEL = "xtts-finetune"


@pytest.fixture
def here(two_runs: Checkout, tmp_path: Any) -> Checkout:
    """Version 1, the champion, is better than version 2."""
    return two_runs.copy(tmp_path / "checkout")


def client(checkout: Checkout) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{checkout.root / 'mlruns' / 'mlflow.db'}")


def rows(said: str) -> dict[str, list[str]]:
    """The gate's table: what stands beside each rule's name."""
    table = [line.split() for line in said.splitlines() if line.startswith("eval ")]
    return {" ".join(words[:3]): words[3:] for words in table}


def test_promote_refuses_forces_and_goes_back(here: Checkout) -> None:
    said = here.run("xtts-finetune", "promote", code=2)
    assert rows(said.stdout)["eval Mel CE"][-1] == "FAIL"
    assert "version 2\n      does not pass: eval Mel CE" in said.stderr
    assert aliases(here)["champion"] == 1
    here.run("xtts-finetune", "promote", "--force", "--why", "she sounds alive")
    assert aliases(here)["champion"] == 2
    here.run("xtts-finetune", "promote", "1")
    assert aliases(here)["champion"] == 1
    here.run("xtts-finetune", "rollback")
    assert aliases(here)["champion"] == 2
    said = here.run("xtts-finetune", "history", "--verify")
    assert '"she sounds alive"' in said.stdout
    assert "3 entries: each is as it was written" in said.stdout
    log = here.root / "registry" / "promotions.jsonl"
    log.write_text(log.read_text().replace("alive", "dead"))
    assert "promotions.jsonl:1\n      was changed" in here.run("xtts-finetune", "history", code=2).stderr
    assert "Running stage" not in here.repro()


def test_measured_now_where_the_eval_split_is_not_known_to_be_the_same(here: Checkout) -> None:
    """As of versions of before: the figures are those of their evaluations, measured again."""
    told = {version.version: version.tags["eval_mel_ce"] for version in versions(here)}
    client(here).delete_model_version_tag(MODEL, "1", EVAL_TAG)
    said = here.run("xtts-finetune", "promote", code=2).stdout
    assert "figures: both measured now, on the eval split in prepared/" in said
    assert rows(said)["eval Mel CE"][:2] == [f"{float(told[number]):.3f}" for number in (2, 1)]
    assert here.leftovers() == []


def test_another_codec_cannot_be_compared(here: Checkout) -> None:
    """Of other recordings mini learns other codes: a lower Mel CE says nothing then."""
    client(here).delete_model_version_tag(MODEL, "1", EVAL_TAG)
    info = here.json("prepared/base/base.json")
    info["digests"]["base/dvae.safetensors"] = "f00d"
    write_json(here.root / "prepared" / "base" / "base.json", info)
    said = here.run("xtts-finetune", "promote", "--force", code=2)
    assert "needs a reason" in said.stderr
    said = here.run("xtts-finetune", "promote", code=2)
    assert "speaks in the audio codes of another codec than prepared/ has" in said.stdout
    assert "does not pass: eval Mel CE, eval Text CE" in said.stderr
    assert aliases(here) == {"candidate": 2, "champion": 1}
