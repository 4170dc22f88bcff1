"""What dvc.lock says of the workspace."""

from checkouts import Checkout

from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.outs import data_digest


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
