"""What tests of the whole pipeline share: one run of it, on few clips and for few steps."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from checkouts import Checkout, quick_checkout
from small_runs import STAGES, Reference, Small, Stage, a_server

pytest_plugins = ["model_fixtures"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `dvc repro` ran through. Read it, or change a copy."""
    checkout = quick_checkout(tmp_path_factory.mktemp("finished") / "checkout")
    checkout.repro()
    return checkout


@pytest.fixture
def copied(finished: Checkout, tmp_path: Path) -> Checkout:
    return finished.copy(tmp_path / "checkout")


@pytest.fixture
def untrained(copied: Checkout) -> Checkout:
    """A checkout in which only `prepare` was run."""
    copied.forget_training()
    return copied


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Stage, Small]]:
    """Of every stage a tiny workspace in which only those before it were run. Copy it."""
    root = tmp_path_factory.mktemp("before")
    with a_server() as server:
        found = {STAGES[0]: server.make(root / "first")}
        for done, stage in pairwise(STAGES):
            found[stage] = found[done].copy(root / stage[-1])
            found[stage].run(*done)
        yield found


@pytest.fixture(scope="session")
def reference(before: dict[Stage, Small], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What every other run in a tiny workspace must end in."""
    whole = before[STAGES[0]].copy(tmp_path_factory.mktemp("reference") / "whole")
    whole.change_params(lambda params: params["checkpoints"].update(keep_last=100))
    whole.repro()
    return Reference(whole)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
