"""Workspaces that tests of more than one room take: `making.workspaces` makes them, here they are made once."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from checkouts import Checkout
from making import workspaces
from once import made_once
from small_runs import STAGES, Before, Reference, Small, a_server

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.core.processes import cores

pytest_plugins = ["model_fixtures"]


def pytest_configure() -> None:
    """What runs at once (pytest -n) shares the cores: threads that wait for each other's cores made all slower."""
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // workers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that need a finished checkout come first: of two workers one makes it, and the other does not wait."""
    waiting = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in waiting)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With nothing in it; a room whose tests need more has a `workspace` of its own in its conftest.py."""
    return Workspace(tmp_path)


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """Nothing was run in it."""
    return workspaces.fresh(tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, with its tables and no experiment that tests use: making one takes seconds, copying it none."""
    from xtts_finetune.tracking.connection import open_store

    workspace = Workspace(tmp_path_factory.mktemp("template"))
    open_store(workspace, TrackingParams(experiment="template", uri=None, log_every_steps=1, flush_every_steps=5))
    return workspace.tracking_db


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `dvc repro` ran through. Read it, or change a copy."""
    root = made_once(tmp_path_factory, "finished", lambda root: workspaces.quick(root / "checkout").repro())
    return Checkout(root / "checkout")


@pytest.fixture(scope="session")
def two_runs(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """HEAD has the run of `finished`, the workspace one of the same phase 1 and another phase 2. Change a copy."""

    def make(root: Path) -> None:
        checkout = finished.copy(root / "checkout")
        checkout.commit("The better run")
        checkout.change_params(lambda params: params["train_phase2"].update(lr=1e-4))
        checkout.repro()

    return Checkout(made_once(tmp_path_factory, "two_runs", make) / "checkout")


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """As `finished`, on a base in the format XTTS v2 is published in. Change a copy."""
    root = made_once(tmp_path_factory, "studio", lambda root: workspaces.studio(root / "checkout").repro())
    return Checkout(root / "checkout")


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
    with a_server() as server:

        def make(root: Path) -> None:
            small = server.make(root / STAGES[0][-1])
            for done, stage in pairwise(STAGES):
                small = small.copy(root / stage[-1])
                small.run(*done)

        root = made_once(tmp_path_factory, "before", make)
        yield {stage: Small(server, root / stage[-1]) for stage in STAGES}


@pytest.fixture(scope="session")
def reference(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What every other run in a tiny workspace must end in."""

    def make(root: Path) -> None:
        whole = before[STAGES[0]].copy(root / "whole")
        whole.change_params(lambda params: params["checkpoints"].update(keep_last=100))
        whole.repro()

    root = made_once(tmp_path_factory, "reference", make)
    return Reference(replace(before[STAGES[0]], root=root / "whole"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
