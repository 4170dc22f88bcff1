"""The registered models that lie in this workspace, read from MLflow's database without loading MLflow."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import path_in

_VERSIONS = """
    SELECT v.name, v.version, v.source, GROUP_CONCAT(a.alias, ', ')
    FROM model_versions v LEFT JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version
    WHERE v.current_stage <> 'Deleted_Internal' GROUP BY v.name, v.version ORDER BY v.name, v.version
"""


def registered(workspace: Workspace) -> Iterator[tuple[str, str, Path]]:
    """Each version whose files lie in this workspace's own store: what it is, why it stays, and its folder.

    All of the store, where the database can't tell: it is damaged, or left in mid-commit (MLflow makes up for that).
    """
    if not workspace.tracking_db.is_file():
        return
    address = f"{workspace.tracking_db.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            rows = connection.execute(_VERSIONS).fetchall()
    except sqlite3.Error as error:
        what = workspace.artifacts.relative_to(workspace.home.root).as_posix()
        yield what, f"{workspace.tracking_db.name} cannot be read: {error}", workspace.artifacts
        return
    for name, version, source, aliases in rows:
        folder = path_in(workspace.artifacts, source or "")
        if folder and folder.is_dir():
            yield f"{name} version {version}", f"registered ({aliases})" if aliases else "registered, no alias", folder
