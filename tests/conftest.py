"""Workspaces that tests of more than one room take: `making.workspaces` makes them, here they are made once."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from checkouts import Checkout
from filelock import FileLock
from making import workspaces
from small_runs import STAGES, Before, Reference, a_server

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.processes import cores

pytest_plugins = ["model_fixtures"]


def pytest_configure() -> None:
    """What runs at once (pytest -n) shares the cores: threads that wait for each other's cores made all slower."""
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // workers))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With nothing in it; a room whose tests need more has a `workspace` of its own in its conftest.py."""
    return Workspace(tmp_path)


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """Nothing was run in it."""
    return workspaces.fresh(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `dvc repro` ran through, one for all workers of pytest -n. Read it, or change a copy."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    checkout, is_made = Checkout(root / "finished" / "checkout"), root / "finished" / "made"
    with FileLock(root / "finished.lock"):
        if not is_made.exists():
            shutil.rmtree(checkout.root, ignore_errors=True)  # of a worker that failed
            workspaces.quick(checkout.root).repro()
            is_made.touch()
    return checkout


@pytest.fixture
def copied(finished: Checkout, tmp_path: Path) -> Checkout:
    return finished.copy(tmp_path / "checkout")


@pytest.fixture
def untrained(copied: Checkout) -> Checkout:
    """A checkout in which only `prepare` was run."""
    copied.forget_training()
    return copied


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """Of every stage a tiny workspace in which only those before it were run. Copy it."""
    root = tmp_path_factory.mktemp("before")
    with a_server() as server:
        smalls = {STAGES[0]: server.make(root / "first")}
        for done, stage in pairwise(STAGES):
            smalls[stage] = smalls[done].copy(root / stage[-1])
            smalls[stage].run(*done)
        yield smalls


@pytest.fixture(scope="session")
def reference(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What every other run in a tiny workspace must end in."""
    whole = before[STAGES[0]].copy(tmp_path_factory.mktemp("reference") / "whole")
    whole.change_params(lambda params: params["checkpoints"].update(keep_last=100))
    whole.repro()
    return Reference(whole)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
