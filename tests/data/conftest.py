"""Fixtures of the data tests."""

from pathlib import Path

import pytest
from making.recordings import Recordings

from xtts_finetune.core.params import PrepareParams


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    return Recordings(tmp_path / "data")


@pytest.fixture
def params() -> PrepareParams:
    return PrepareParams(
        language="en",
        eval_fraction=0.15,
        min_seconds=0.5,
        max_seconds=11.6,
        max_text_tokens=200,
        min_rms_dbfs=-55.0,
        max_clipped_fraction=0.01,
    )
