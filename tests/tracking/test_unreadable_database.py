"""MLflow's database, damaged or killed in mid-commit: what is registered is not known, so that all of it stays."""

import errno
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from xtts_finetune.core.errors import Stopped
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.stages.stops import explained_stops

_KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
for _ in range(100):
    database.execute("INSERT INTO filling VALUES (randomblob(4000))")
os._exit(9)
"""


@pytest.fixture(params=["damaged", "killed in mid-commit", "of another program"])
def unreadable(request: pytest.FixtureRequest, workspace: Workspace) -> Workspace:
    weights = workspace.artifacts / "models" / "m-1" / "artifacts" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w" * 5000)
    database = workspace.tracking_db
    if request.param == "damaged":
        content = bytearray(database.read_bytes())
        content[4096:] = b"?" * (len(content) - 4096)
        database.write_bytes(content)
    else:
        if request.param == "of another program":
            database.unlink()
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE filling (blob)")
    if request.param == "killed in mid-commit":
        subprocess.run([sys.executable, "-c", _KILLED, str(database)], check=False)
        assert Path(f"{database}-journal").stat().st_size
    return workspace


def test_all_of_the_store_stays(unreadable: Workspace) -> None:
    [kept] = [each for each in make_plan(unreadable, Request("best_only")).kept if "mlruns" in each.what]
    assert (kept.what, kept.bytes >= 5000) == ("mlruns/artifacts", True)
    assert kept.why.startswith("mlflow.db cannot be read: ")
    assert "\n" not in kept.why


def test_a_full_disk_keeps_its_page(unreadable: Workspace) -> None:
    with pytest.raises(Stopped), explained_stops(unreadable):
        raise OSError(errno.ENOSPC, "No space left on device")
    page = unreadable.stopped.read_text(encoding="utf-8")
    assert "xtts-finetune clean --best-only --yes" in page
