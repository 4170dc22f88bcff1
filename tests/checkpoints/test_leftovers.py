"""What is half-written in work/: the dead's goes, and neither what somebody writes now nor what looks alike."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from leftovers import DEAD, half

from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.files import leftovers_in, temporary_name, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "work" / "phase1", keep_last=2)
    store.folder.mkdir(parents=True)
    return store


def test_only_the_deads_goes(store: CheckpointStore) -> None:
    delivery = store.folder / "delivery.json"
    elsewhere = replace(DEAD, host="0" * 8)
    staying = [
        temporary_name(delivery),
        store.folder / ".mine.tmp",
        store.folder / f".delivery.json.{elsewhere}.1a.tmp",
    ]
    # nobody but the holder of the lock writes those; and a container has another name each time
    going = [half(delivery), half(half(delivery)), store.folder / f".step-00000400.{elsewhere}.1a.tmp"]
    for path in (*staying, *going):
        path.write_text("half")
    assert list(leftovers_in(store.folder)) == sorted(going[:2])
    store.prune()
    assert sorted(store.folder.iterdir()) == sorted(staying)


def test_a_best_that_was_half_deleted_goes_with_the_next_choice(store: CheckpointStore) -> None:
    """A done phase is published again after a kill, and then writes and prunes nothing more."""
    aside = half(store.folder / "best-00000009")
    aside.mkdir()
    store.keep_best(12)
    assert not aside.exists()


def test_no_writer_beside_it_loses_what_it_writes(store: CheckpointStore) -> None:
    """As the delivery to MLflow, on another thread."""
    failures: list[OSError] = []

    def deliver() -> None:
        try:
            for number in range(300):
                write_json(store.folder / "delivery.json", number)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=deliver)
    thread.start()
    while thread.is_alive():
        store.prune()
    assert failures == []
    assert [path.name for path in store.folder.iterdir()] == ["delivery.json"]


def test_clean_offers_the_deads_alone(store: CheckpointStore) -> None:
    workspace = Workspace(store.folder.parents[1])
    (workspace.root / ".dvc").mkdir()
    for place in (workspace.root, store.folder):
        for path in (half(place / "a"), temporary_name(place / "b"), place / ".mine.tmp"):
            path.write_text("half")
    offered = [path for item in make_plan(workspace, Request("intermediates")).items for path in item.paths]
    assert offered == [half(workspace.root / "a"), half(store.folder / "a")]
