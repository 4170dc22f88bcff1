"""What tests of commands share."""

from pathlib import Path

import pytest
from checkouts import Checkout
from cleaning import detached


@pytest.fixture
def own(finished: Checkout, tmp_path: Path) -> Checkout:
    """A checkout in which `dvc repro` ran through, whose files have no names elsewhere."""
    return detached(finished, tmp_path / "checkout")
