"""What dvc.lock says of the workspace."""

from pathlib import Path

import dvc.lock
import pytest
from checkouts import Checkout

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.outs import data_digest, name_as_it_is


def test_the_data_is_what_prepare_used_not_what_was_added_since(copied: Checkout) -> None:
    """A tag that says otherwise would call a model trained on what it has never seen."""
    workspace = Workspace(copied.root)
    used = copied.lock()["prepare"]["data"]["md5"]
    assert data_digest(workspace) == used
    metadata = copied.root / "data" / "metadata.csv"
    metadata.unlink()  # it is one file with those of other checkouts
    metadata.write_text("", encoding="utf-8")
    copied.run("dvc", "add", "--quiet", "data")
    assert used not in (copied.root / "data.dvc").read_text(encoding="utf-8")
    assert data_digest(workspace) == used


def test_before_prepare_it_is_untracked(copied: Checkout) -> None:
    (copied.root / "dvc.lock").unlink()
    assert data_digest(Workspace(copied.root)) == "untracked"


LOCK = """\
schema: '2.0'
stages:
  evaluate:
    cmd: it
    outs:
    - path: reports/registration.json
      hash: md5
      md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      size: 1
"""


@pytest.fixture
def edited(tmp_path: Path) -> Workspace:
    """An out is not as dvc.lock names it."""
    workspace = Workspace(tmp_path)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    workspace.dvc_lock.write_text(LOCK, encoding="utf-8")
    workspace.reports.mkdir()
    workspace.registration.write_text("{}", encoding="utf-8")
    return workspace


def test_an_out_is_named_as_it_is(edited: Workspace) -> None:
    name_as_it_is(edited, edited.registration)
    named = edited.dvc_lock.read_text(encoding="utf-8")
    assert "md5: 99914b932bd37a50b983c5e7c90ae93b\n      size: 2" in named  # of {}
    assert named.startswith("schema: '2.0'\nstages:\n  evaluate:\n    cmd: it\n")


def test_while_dvc_is_at_work_nothing_is_written(edited: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc.lock, "DEFAULT_TIMEOUT", 0.1)
    held = dvc.lock.make_lock(str(edited.root / ".dvc" / "tmp" / "lock"))
    held.lock()
    with pytest.raises(UserError, match=r"not now: DVC is at work here\n.*lock\n.*another command of DVC has it"):
        name_as_it_is(edited, edited.registration)
    held.unlock()
    assert edited.dvc_lock.read_text(encoding="utf-8") == LOCK
    name_as_it_is(edited, edited.registration)
