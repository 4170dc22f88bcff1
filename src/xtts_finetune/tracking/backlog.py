"""Runs that ended before MLflow had all of them: kept in folders of their own, and delivered when it answers.

An evaluation always goes this way: its folder holds all that its page and the registry are to get, as links.
"""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import (
    discard,
    link_or_copy,
    link_tree,
    published_folder,
    read_json,
    sha256_file,
    write_json,
    write_text,
)
from xtts_finetune.core.layout import (
    BUNDLE,
    CURVE,
    DELIVERY,
    FIGURES,
    LINEAGE,
    PHASES,
    SAMPLES,
    SERVING,
    SYSTEM,
    WEIGHTS,
    PhaseName,
    Workspace,
    lock_of,
)
from xtts_finetune.tracking.connection import TrackingStore, reason
from xtts_finetune.tracking.curve import Row, read_rows
from xtts_finetune.tracking.delivery import Delivery
from xtts_finetune.tracking.naming import name_runs
from xtts_finetune.tracking.outbox import (
    TRAINED,
    Order,
    Outbox,
    TrackedRun,
    ended_outboxes,
    passed_over,
    running_outboxes,
)
from xtts_finetune.tracking.pipelines import REGISTERED, follow
from xtts_finetune.tracking.receipt import IN_QUEUE, Beside
from xtts_finetune.tracking.registry import Registration, register_best

_LOCK_SECONDS = 60  # that somebody else who delivers is waited for


@dataclass(frozen=True)
class Files:
    """What goes with an evaluation's run."""

    figures: Iterable[Path]  # files and folders for its page
    # Where its model is to be registered:
    write_bundle: Callable[[Path], None]  # a self-contained model, into an empty folder
    serving_code: Path  # the source file of a pyfunc model that loads the bundle


def put(workspace: Workspace, record: TrackedRun, rows: list[Row], files: Files) -> Path:
    """Keep an evaluation in a folder until it is delivered; say in reports/registration.json that its model waits.

    Of an experiment in a copy of DVC's no model is registered: of a sweep only that of the one that is applied.
    """
    # However long that takes: who delivers is bounded by a server's timeouts, and an evaluation is not thrown away.
    with _alone(workspace, seconds=-1):
        place = _put(workspace, record, rows, files)
        receipt = {"pending": True, "model_sha256": record.order.sha256} if record.order else {IN_QUEUE: True}
        write_json(workspace.registration, receipt)
    return place


def _put(workspace: Workspace, record: TrackedRun, rows: list[Row], files: Files) -> Path:
    place = workspace.undelivered / record.key
    with published_folder(place) as folder:
        (folder / FIGURES).mkdir()
        for path in files.figures:
            (link_tree if path.is_dir() else link_or_copy)(path, folder / FIGURES / path.name)
        if record.order:
            (folder / BUNDLE).mkdir()
            files.write_bundle(folder / BUNDLE)
            shutil.copyfile(files.serving_code, folder / SERVING)
        write_text(folder / CURVE, "".join(json.dumps(row) + "\n" for row in rows))
        write_json(folder / DELIVERY, asdict(record))
    return place


def set_aside(workspace: Workspace) -> None:
    """Keep what MLflow lacks of done phases, whose work/ is about to go."""
    for phase in PHASES:
        if summary_of(workspace.work(phase)):
            set_aside_run(workspace, workspace.work(phase))


def set_aside_run(workspace: Workspace, run: Path) -> None:
    """Keep what MLflow lacks of a run whose folder is about to go; what was kept of it before stays if it is longer."""
    try:
        outbox = Outbox.read(run)
    except FileNotFoundError:
        return
    except UserError:
        print(passed_over(run), "; what MLflow lacks of it, reports/ has", sep="", file=sys.stderr)
        return
    if not outbox.is_delivered:
        with _alone(workspace, seconds=-1):
            _keep(run, workspace.undelivered / outbox.record.key)
    (run / DELIVERY).unlink(missing_ok=True)


def _keep(run: Path, place: Path) -> None:
    if not (run / DELIVERY).exists() or _last_step(run) < _last_step(
        place
    ):  # somebody else was faster, or it is longer
        return
    with published_folder(place) as folder:
        _link_record(run, folder)


def _last_step(folder: Path) -> int:
    return max((row["step"] for row in read_rows(folder / CURVE)), default=-1)


def take_back(workspace: Workspace, phase: PhaseName, key: str) -> None:
    """Let a phase that goes on after its end (more epochs) deliver what it had set aside."""
    aside, work = workspace.undelivered / key, workspace.work(phase)
    if not aside.exists():
        return
    with _alone(workspace, seconds=-1):
        if aside.exists():  # else it was just delivered
            _link_record(aside, work)
            discard(aside)


def _link_record(source: Path, target: Path) -> None:
    """Give what a phase's run is told by a second name in another folder, where that has none of it."""
    for name in CURVE, SYSTEM, DELIVERY:
        if (source / name).exists() and not (target / name).exists():
            link_or_copy(source / name, target / name)
    if (source / SAMPLES).exists() and not (target / SAMPLES).exists():
        with published_folder(target / SAMPLES) as samples:  # whole: what it lacks after a kill nobody would miss
            link_tree(source / SAMPLES, samples)


def deliver_backlog(workspace: Workspace, connect: Callable[[], TrackingStore]) -> Iterator[Registration]:
    """Deliver all ended runs, the one that began first first; then what parked ones wait with, which have no trainer.

    Yields:
        What was registered. A run that cannot be delivered keeps none of the others back.

    Raises:
        UserError: another process delivers them, or the store cannot be opened. At the end, of the last run that
            could not be delivered: its record or model is damaged, or the store names a path of this machine.
        Exception: at the end, too: whatever the store raised last; what it took stays.
    """
    parked = [outbox for folder in _parked(workspace) if (outbox := _undelivered(folder))]
    if not parked and not any(ended_outboxes(workspace)):
        return
    failure: Exception | None = None
    with _alone(workspace, _LOCK_SECONDS):
        store = connect()
        for folder in list(ended_outboxes(workspace)):
            try:
                done = _deliver(workspace, folder, lambda: store)
            except Exception as error:  # noqa: BLE001 - raised below
                failure = error
            else:
                yield from [done] if done else []
        for outbox in parked:
            try:
                bring(outbox, lambda: store)
            except Exception as error:  # noqa: BLE001 - raised below
                failure = error
    if failure:
        raise failure


def _parked(workspace: Workspace) -> Iterator[Path]:
    for phase, folder in running_outboxes(workspace):
        if folder != workspace.work(phase):
            yield folder


def _undelivered(folder: Path) -> Outbox | None:
    """The outbox of a parked run, if MLflow lacks something of it."""
    try:
        outbox = Outbox.read(folder)
    except FileNotFoundError:  # it was just taken back, or deleted
        return None
    except UserError:
        print(passed_over(folder), "; it is made anew when the run goes on", sep="", file=sys.stderr)
        return None
    return None if outbox.is_delivered else outbox


def bring(outbox: Outbox, connect: Callable[[], TrackingStore]) -> None:
    """Deliver what waits, and remember how far that came."""
    delivery = Delivery(outbox, connect)
    try:
        delivery.bring()
        delivery.bring_samples()
    finally:
        outbox.save()


@contextmanager
def _alone(workspace: Workspace, seconds: float) -> Iterator[None]:
    """Hold the folders of ended runs: nothing is put there or taken away while it is delivered and then deleted.

    A checkout and its copies hold them all: the checkout delivers what a copy left.

    Raises:
        UserError: another process still holds them after so many seconds (-1: never).
    """
    lock = FileLock(lock_of(workspace.home.undelivered))
    workspace.home.undelivered.parent.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        print("tracking: waiting for another process that delivers to MLflow", file=sys.stderr)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            find = "tasklist" if sys.platform == "win32" else "pgrep -af xtts.finetune"
            what = "is held by another process that delivers to MLflow: a stage, or xtts-finetune sync"
            remedy = f"wait for it, or find it ({find}) and stop it: nothing is lost; then: xtts-finetune sync"
            raise UserError("another process delivers to MLflow", [Problem(lock.lock_file, what, remedy)]) from None
    try:
        yield
    finally:
        lock.release()


def deliver_backlog_aside(workspace: Workspace, connect: Callable[[], TrackingStore]) -> None:
    """`deliver_backlog` on another thread, which nothing waits for and which ends with the process."""

    def work() -> None:
        try:
            for registration in deliver_backlog(workspace, connect):
                print(registration, file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - no store, driver or network may end a training
            print(f"tracking: earlier runs still wait for MLflow: {reason(error)}", file=sys.stderr)

    if any(ended_outboxes(workspace)) or any(_parked(workspace)):
        threading.Thread(target=work, name="mlflow-backlog", daemon=True).start()


def _deliver(workspace: Workspace, folder: Path, connect: Callable[[], TrackingStore]) -> Registration | None:
    outbox = Outbox.read(folder)
    delivery, order = Delivery(outbox, connect), outbox.record.order
    try:
        delivery.bring()
        delivery.bring_samples()
    except BaseException:
        outbox.save()
        raise
    done = None
    if order:
        _check(folder / BUNDLE / WEIGHTS, order)
    if (folder / FIGURES).exists():
        _show(delivery)
    if order:
        is_latest = _is_latest(workspace, order)
        done = _register(delivery, order, is_latest)
        if is_latest:
            _write_receipt(workspace, order, done)
    discard(folder)
    return done


def _show(delivery: Delivery) -> None:
    """Bring what an evaluation has for its page."""
    store, run_id = delivery.claim()
    address = store.client.get_run(run_id).info.artifact_uri
    repository = store.artifact_repository(address, run_id, "artifacts")
    repository.log_artifacts(str(delivery.outbox.folder / FIGURES))


def _is_latest(workspace: Workspace, order: Order) -> bool:
    """Whether the workspace's latest evaluation found this model best: clocks and attempts tell nothing of that."""
    file = workspace.registration
    return file.exists() and read_json(file).get("model_sha256") == order.sha256


def _register(delivery: Delivery, order: Order, is_latest: bool) -> Registration:
    store, run_id = delivery.claim()
    folder = delivery.outbox.folder
    name_runs(store, folder / BUNDLE / LINEAGE)
    done = register_best(
        store,
        run_id,
        order.model_name,
        folder / BUNDLE,
        folder / SERVING,
        order.sha256,
        order.tags,
        order.metrics,
        is_latest,
        order.page,
        folder / FIGURES / "samples",
    )
    store.client.set_tag(run_id, REGISTERED, str(done.version))
    if delivery.parent:
        follow(store, delivery.parent)
    return done


def _check(weights: Path, order: Order) -> None:
    """Refuse to register anything but the weights that were evaluated."""
    if weights.is_file() and sha256_file(weights) == order.sha256:
        return
    what = "is not what was evaluated" if weights.is_file() else "is missing"
    remedy = f"rm -r {quoted(weights.parents[1])}, then evaluate again: dvc repro -s -f evaluate"
    raise UserError("a model cannot be registered", [Problem(str(weights), what, remedy)])


def _write_receipt(workspace: Workspace, order: Order, done: Registration) -> None:
    """In reports/registration.json, and what is known beside it."""
    receipt = {**asdict(done), "model_sha256": order.sha256}
    receipt |= {name: digest for name, digest in order.tags.items() if name == TRAINED}
    beside = Beside(receipt.pop("registry"), receipt.pop("address"))
    del receipt["created"]  # evaluated again, the same weights give the same receipt, and the same dvc.lock
    write_json(workspace.registration, receipt)
    beside.write(workspace, receipt)
