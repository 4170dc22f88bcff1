"""Whether the registered version is champion, as far as a checkout's log knows."""

from pathlib import Path

import pytest

from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.ops.origin import is_to_be_promoted
from xtts_finetune.tracking.promotions import Entry, Log


@pytest.mark.parametrize(("weights", "is_champion"), [("ours", False), ("a colleague's", True)])
def test_a_log_of_another_registry_takes_no_champion_away(tmp_path: Path, weights: str, is_champion: bool) -> None:
    """Its version 1 is another one."""
    workspace = Workspace(tmp_path)
    registration = {"name": "anna", "version": 1, "champion": 1, "model_sha256": "ours"}
    workspace.registration.parent.mkdir()
    write_json(workspace.registration, {**registration, "aliases": ["candidate", "champion"]})
    entry = Entry(
        time="2026-11-29T01:22:29Z",
        who="A colleague",
        action="promote",
        model="anna",
        before=1,
        before_sha256=weights,
        champion=2,
        champion_sha256="two",
        rules=[],
        forced=False,
        why="",
        follows=[],
    )
    Log(workspace.promotions, [entry]).write()
    assert is_to_be_promoted(workspace) != is_champion
