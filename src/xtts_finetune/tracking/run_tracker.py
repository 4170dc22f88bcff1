"""The MLflow run of a phase while it is trained: nothing waits for it, and no failure of a server ends the work."""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import DiskFull, Stopped
from xtts_finetune.tracking.connection import TIMEOUT, TrackingStore, reason
from xtts_finetune.tracking.delivery import Delivery
from xtts_finetune.tracking.notes import NOTE, best_of, phase_note, rounded
from xtts_finetune.tracking.outbox import BEST, Outbox, now


class RunTracker:
    """The MLflow run of a phase that is being trained: its curve goes there on another thread, a flight at a time.

    No failure of a server ends the work, or lets it wait longer than the server's timeout, at the start, in the
    middle or at the end: what is not delivered waits in the outbox. The workspace's own database must take the run as
    it starts; when its disk is full the work is stopped where it would end, and the next start brings all of it.
    As a context manager it ends the run as FINISHED, KILLED (stopped, to be continued) or FAILED.
    """

    def __init__(
        self, outbox: Outbox, connect: Callable[[], TrackingStore], is_local: bool, flush_every_steps: int
    ) -> None:
        self._outbox = outbox
        self._connect = connect
        self._delivery = Delivery(outbox, connect)
        self._is_local = is_local
        # Now: while a model is uploaded on another thread, the process has another.
        self._patience = None if is_local else float(os.environ[TIMEOUT])
        self._flush_every_steps = flush_every_steps
        self._next_flush = 0
        self._failure: Exception | None = None  # why the latest flight came to nothing
        self._flight: threading.Thread | None = None
        self._samples: threading.Thread | None = None  # that brings them
        self._tried: set[str] = set()  # steps whose samples were brought, or not taken
        self._samples_failure: Exception | None = None
        self._ended = False

    @classmethod
    def start(
        cls, outbox: Outbox, connect: Callable[[], TrackingStore], is_local: bool, flush_every_steps: int
    ) -> Self:
        """Continue the run of the outbox's key, whatever its status, or create it.

        Raises:
            UserError: the workspace's own database is damaged or of another schema.
            MlflowException: it refuses.
        """
        tracker = cls(outbox, connect, is_local, flush_every_steps)
        outbox.save()
        if is_local:
            tracker._delivery.claim()
        else:
            tracker._fly(tracker._delivery.claim)
        return tracker

    @property
    def began(self) -> int:
        """In ms since the epoch, as the store has it."""
        return self._outbox.record.created

    @property
    def run_id(self) -> str | None:
        """The run's id; None until the store has answered."""
        return self._outbox.record.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every `flush_every_steps` steps, send what the curve has and the store lacks. The metrics stand in it."""
        if metrics and step >= self._next_flush:
            self._bring_samples()
        if metrics and step >= self._next_flush and not self._is_flying:
            self._next_flush = step + self._flush_every_steps
            self._fly(self._delivery.bring)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add to the run's tags, which are sent when it ends."""
        self._outbox.change(tags={**self._outbox.record.tags, **tags})

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left, and end the run. What a server does not take waits in the outbox.

        Raises:
            DiskFull: the workspace's disk has no room for it. Called again, it tries again.
        """
        self._conclude(status)
        self._land()
        if not self._is_flying:  # else it hangs
            self._fly(self._delivery.bring)
            self._land()
        self._land_samples()
        self._outbox.save()
        if not self._outbox.is_delivered:
            self._report_the_rest()
        self._ended = True

    def _conclude(self, status: str) -> None:
        """What the run came to, in figures and in words."""
        record, rows = self._outbox.record, self._outbox.rows
        best = best_of(rows)
        figures = {f"{BEST}/{name}": best[name] for name in ("mel_ce", "text_ce") if name in best}
        note = phase_note(status, record.params, record.tags, rows)
        self._outbox.change(status=status, ended=now(), figures=rounded(figures), tags={**record.tags, NOTE: note})

    @property
    def _is_flying(self) -> bool:
        return self._flight is not None and self._flight.is_alive()

    def _fly(self, work: Callable[[], object]) -> None:
        self._flight = threading.Thread(target=self._try, args=(work,), name="mlflow", daemon=True)
        self._flight.start()

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
            self._failure = None
        except Exception as error:  # noqa: BLE001 - no store, driver or network may end a training
            if self._failure is None:
                print(f"tracking: MLflow takes no points, keeping them for later: {reason(error)}", file=sys.stderr)
            self._failure = error

    def _bring_samples(self) -> None:
        """On a thread of its own: a store of files that is slow, or takes none, keeps no points back."""
        new = {folder.name for folder in self._outbox.unheard()} - self._tried
        if new and not (self._samples and self._samples.is_alive()):
            self._tried |= new
            self._samples = threading.Thread(target=self._try_samples, name="mlflow-samples", daemon=True)
            self._samples.start()

    def _try_samples(self) -> None:
        try:
            Delivery(self._outbox, self._connect).bring_samples()
            self._samples_failure = None
        except Exception as error:  # noqa: BLE001 - as in _try
            if self._samples_failure is None:
                print(f"tracking: MLflow takes no samples, keeping them for later: {reason(error)}", file=sys.stderr)
            self._samples_failure = error

    def _land_samples(self) -> None:
        """Try those once more that were not taken; wait, while they are."""
        if not (self._samples and self._samples.is_alive()):
            self._tried.clear()
            self._bring_samples()
        if self._samples:
            self._samples_failure = self._waited_for(self._samples) or self._samples_failure

    def _land(self) -> None:
        """Wait for the flight."""
        if self._flight:
            self._failure = self._waited_for(self._flight) or self._failure

    def _waited_for(self, thread: threading.Thread) -> TimeoutError | None:
        """None when it has ended: for the own database, or while a server takes batch after batch, it is waited for."""
        while thread.is_alive():
            before = self._outbox.record
            thread.join(self._patience)
            if self._outbox.record == before and thread.is_alive():
                return TimeoutError(f"no answer in {self._patience:g} s")
        return None

    def _report_the_rest(self) -> None:
        points, unheard = len(self._outbox.outstanding()), len(self._outbox.unheard())
        what = f"{points} points" + (f" and the samples of {unheard} steps" if unheard else "")
        failure = self._failure or self._samples_failure
        why = reason(failure) if failure else "the disk is full"
        told = "  nothing is lost: they wait in work/, and are delivered by the next stage, or by: xtts-finetune sync"
        print(f"tracking: {what} are not in MLflow: {why}\n{as_typed(told)}", file=sys.stderr)
        if self._is_local and self._failure and is_disk_full(self._failure):
            raise DiskFull(f"MLflow's database has no room: {why}") from self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._ended:
            self.finish()
        elif error is not None:
            with suppress(DiskFull, OSError):  # `error` says why it ends
                self.finish("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
