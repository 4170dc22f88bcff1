"""The registered models that lie in this workspace, read from MLflow's database without loading MLflow."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import path_in
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG

_AT_ONCE, _PATIENT = 0.05, 5.0  # seconds that others are waited for: by who shows, and by who decides what may go
_VERSIONS = """
    SELECT v.name, v.version, v.source, GROUP_CONCAT(a.alias, ', ')
    FROM model_versions v LEFT JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version
    WHERE v.current_stage <> 'Deleted_Internal' GROUP BY v.name, v.version ORDER BY v.name, v.version
"""


_ALIASES = """
    SELECT a.alias, a.version, t.value FROM registered_model_aliases a
    LEFT JOIN model_version_tags t ON t.name = a.name AND t.version = a.version AND t.key = ?
    WHERE a.name = ?
"""


@dataclass(frozen=True)
class Aliased:
    """A version that an alias names; `sha256` is of its weights, "" where it does not say."""

    version: int
    sha256: str


@dataclass(frozen=True)
class Known:
    """A model: its versions, and which of them an alias names."""

    versions: frozenset[int]
    aliases: dict[str, Aliased]


def known(workspace: Workspace, model_name: str) -> Known | None:
    """A model in this workspace's own store; None where the database cannot tell."""
    try:
        if not workspace.tracking_db.is_file():
            return None
        with closing(_opened(workspace, _AT_ONCE)) as connection:
            rows = connection.execute(_ALIASES, (WEIGHTS_TAG, model_name)).fetchall()
            there = [version for name, version, _, _ in connection.execute(_VERSIONS) if name == model_name]
    except (sqlite3.Error, OSError):
        return None
    aliases = {alias: Aliased(int(version), sha256 or "") for alias, version, sha256 in rows}
    return Known(frozenset(map(int, there)), aliases)


def registered(workspace: Workspace) -> Iterator[tuple[str, str, Path]]:
    """Each version whose files lie in this workspace's own store: what it is, why it stays, and its folder.

    All of the store, where the database can't tell: it is damaged, or left in mid-commit (MLflow makes up for that).
    """
    if not workspace.tracking_db.is_file():
        return
    try:
        with closing(_opened(workspace, _PATIENT)) as connection:
            rows = connection.execute(_VERSIONS).fetchall()
    except sqlite3.Error as error:
        what = workspace.artifacts.relative_to(workspace.home.root).as_posix()
        yield what, f"{workspace.tracking_db.name} cannot be read: {error}", workspace.artifacts
        return
    for name, version, source, aliases in rows:
        folder = path_in(workspace.artifacts, source or "")
        if folder and folder.is_dir():
            yield f"{name} version {version}", f"registered ({aliases})" if aliases else "registered, no alias", folder


def _opened(workspace: Workspace, seconds: float) -> sqlite3.Connection:
    """To be read; MLflow's writes take milliseconds."""
    return sqlite3.connect(f"{workspace.tracking_db.resolve().as_uri()}?mode=ro", timeout=seconds, uri=True)
