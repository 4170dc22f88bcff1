"""Runs that ended before MLflow had all of them: kept in folders of their own, and delivered when it answers.

An evaluation always goes this way: its folder holds all that its page and the registry are to get, as links.
"""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from xtts_finetune.core.files import (
    discard,
    link_or_copy,
    link_tree,
    published_folder,
    read_json,
    write_json,
    write_text,
)
from xtts_finetune.core.layout import BUNDLE, CURVE, DELIVERY, FIGURES, SERVING, Workspace, lock_of
from xtts_finetune.tracking.connection import Store, reason
from xtts_finetune.tracking.curve import Row
from xtts_finetune.tracking.delivery import Delivery
from xtts_finetune.tracking.outbox import Order, Outbox, TrackedRun, ended_outboxes
from xtts_finetune.tracking.registry import Registration, register_best

_LOCK_SECONDS = 60  # that somebody else who delivers is waited for


@dataclass(frozen=True)
class Files:
    """What goes with an evaluation's run."""

    figures: Iterable[Path]  # files and folders for its page
    bundle: Path  # a self-contained model
    serving_code: Path  # the source file of a pyfunc model that loads the bundle


def put(workspace: Workspace, record: TrackedRun, rows: list[Row], files: Files) -> None:
    """Keep an ended run until it is delivered, and say in reports/registration.json that its model waits."""
    assert record.order
    with published_folder(workspace.undelivered / record.key) as folder:
        (folder / FIGURES).mkdir()
        for path in files.figures:
            (link_tree if path.is_dir() else link_or_copy)(path, folder / FIGURES / path.name)
        link_tree(files.bundle, folder / BUNDLE)
        shutil.copyfile(files.serving_code, folder / SERVING)
        write_text(folder / CURVE, "".join(json.dumps(row) + "\n" for row in rows))
        write_json(folder / DELIVERY, asdict(record))
    write_json(workspace.registration, {"pending": True, "model_sha256": record.order.sha256})


def deliver_backlog(workspace: Workspace, connect: Callable[[], Store]) -> list[Registration]:
    """Deliver all ended runs, the one that began first first, so that the newest model ends as candidate.

    Returns:
        What was registered.

    Raises:
        filelock.Timeout: another process delivers them.
        UserError: a record is damaged, or the store names a path of this machine.
        Exception: whatever the store raises; what it took before stays.
    """
    registered = []
    if any(ended_outboxes(workspace)):
        with FileLock(lock_of(workspace.undelivered), timeout=_LOCK_SECONDS):
            for folder in list(ended_outboxes(workspace)):
                done = _deliver(workspace, folder, connect)
                registered += [done] if done else []
    return registered


def deliver_backlog_aside(workspace: Workspace, connect: Callable[[], Store]) -> None:
    """`deliver_backlog` on another thread, which nothing waits for and which ends with the process."""

    def work() -> None:
        try:
            for registration in deliver_backlog(workspace, connect):
                print(registration, file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - no store, driver or network may end a training
            print(f"tracking: earlier runs still wait for MLflow: {reason(error)}", file=sys.stderr)

    if any(ended_outboxes(workspace)):
        threading.Thread(target=work, name="mlflow-backlog", daemon=True).start()


def _deliver(workspace: Workspace, folder: Path, connect: Callable[[], Store]) -> Registration | None:
    outbox = Outbox.read(folder)
    delivery, order = Delivery(outbox, connect), outbox.record.order
    try:
        delivery.bring()
    except BaseException:
        outbox.save()
        raise
    done = _register(delivery, order) if order else None
    if order and done:
        _write_receipt(workspace, order, done)
    discard(folder)
    return done


def _register(delivery: Delivery, order: Order) -> Registration:
    store, run_id = delivery.claim()
    folder = delivery.outbox.folder
    address = store.client.get_run(run_id).info.artifact_uri
    if not store.own_folder(address, run_id, "artifacts"):
        store.refuse_foreign_path(address)
    store.client.log_artifacts(run_id, str(folder / FIGURES))
    return register_best(
        store,
        run_id,
        order.model_name,
        folder / BUNDLE,
        folder / SERVING,
        order.sha256,
        order.tags,
        order.metrics,
    )


def _write_receipt(workspace: Workspace, order: Order, done: Registration) -> None:
    """In reports/registration.json, unless that is about another evaluation's model by now."""
    file = workspace.registration
    if file.exists() and read_json(file).get("model_sha256") == order.sha256:
        write_json(file, {**asdict(done), "model_sha256": order.sha256})
