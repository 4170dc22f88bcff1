"""What evaluate measures is what it registers: nothing is restored to models/ meanwhile."""

import signal
from pathlib import Path

import pytest
from small_runs import EVALUATE, USER, Reference, Small
from standstill import wait_until_stopped

from xtts_finetune.checkpoints.lock import models_held
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.ops.restore import restore_text

pytestmark = pytest.mark.slow


@pytest.fixture
def small(reference: Reference, tmp_path: Path) -> Small:
    """A workspace in which a model is registered."""
    return reference.whole.copy(tmp_path / "small")


def test_restore_waits_for_an_evaluation_to_end(small: Small) -> None:
    fork = small.start(*EVALUATE, at={"evaluation.json#1": "SIGSTOP"})
    wait_until_stopped(fork.pid)
    with pytest.raises(UserError, match="evaluate"):
        list(restore_text(Workspace(small.root), "1"))
    fork.kill(signal.SIGCONT)
    assert fork.wait() == 0, fork.said
    assert any("as it was registered" in line for line in restore_text(Workspace(small.root), "1"))


def test_an_evaluation_is_refused_beside_a_restore(small: Small) -> None:
    with models_held(Workspace(small.root)):
        assert "xtts-finetune restore" in small.run(*EVALUATE, code=USER)
    small.run(*EVALUATE)
