"""Workspaces that tests of more than one room take: `making.workspaces` makes them, here they are made once."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from checkouts import Checkout
from making import workspaces
from small_runs import STAGES, Before, Reference, a_server

from xtts_finetune.core.layout import Workspace

pytest_plugins = ["model_fixtures"]


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
    """A checkout in which `dvc repro` ran through. Read it, or change a copy."""
    checkout = workspaces.quick(tmp_path_factory.mktemp("finished") / "checkout")
    checkout.repro()
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
