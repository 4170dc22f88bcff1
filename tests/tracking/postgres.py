"""A PostgreSQL of the tests' own, on a socket in a folder of its own: Debian's package, where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = "postgres"  # the user that Debian's package makes: as root it does not run


def program(name: str) -> str:
    """Where one of PostgreSQL's programs is; else the test is skipped."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or next((str(path) for path in reversed(packaged)), None)
    return found or pytest.skip(
        f"PostgreSQL is not installed here: there is no {name} (Debian: apt install postgresql)"
    )


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """Yields the address of a database with nothing in it, for SQLAlchemy.

    Args:
        folder: a new one, of a short path: that of a socket may have 107 characters.
    """
    initdb, control = program("initdb"), program("pg_ctl")
    folder.mkdir()
    user = NOBODY if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    cluster = folder / "cluster"

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL, env={"LC_ALL": "C.UTF-8"})

    run(initdb, "--pgdata", str(cluster), "--username", "mlflow", "--auth", "trust", "--no-sync")
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    run(control, "--pgdata", str(cluster), "--log", str(folder / "log"), "--options", options, "--wait", "start")
    try:
        yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
    finally:
        run(control, "--pgdata", str(cluster), "--mode", "immediate", "stop")
