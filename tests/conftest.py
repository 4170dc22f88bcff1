"""What tests of the whole pipeline share: one run of it, on few clips and for few steps."""

from pathlib import Path

import pytest
from checkouts import Checkout, quick_checkout


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


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
