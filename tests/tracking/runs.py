"""A phase as far as MLflow can tell: a curve in a folder, and the tracker that delivers it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtts_finetune.core.params import TrackingParams
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.logged_model import MODEL_FOLDER
from xtts_finetune.tracking.outbox import Pipeline, new_tracked_run
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.run_tracker import RunTracker
from xtts_finetune.tracking.stage_runs import track

DATASET = ("data", "data/", "a" * 32 + ".dir")
KEY = "0123456789abcdef"
LOCAL = TrackingParams(experiment="xtts-finetune", uri=None, log_every_steps=1, flush_every_steps=5)


@dataclass
class Training:
    curve: Curve
    tracker: RunTracker

    def log(self, step: int, time: int | None = None, **metrics: float) -> None:
        """As training does: the row is in the curve first."""
        row = {name.replace("__", "/"): value for name, value in metrics.items()}
        self.curve.append({"step": step, "epoch": 0, "time": time or 1_700_000_000_000 + step, **row})
        self.tracker.log(step, row)

    def line(self, last: int, first: int = 1) -> None:
        for step, value in line(last, first):
            self.log(step, train__loss=value)


def begin(
    store: TrackingStore | Callable[[], TrackingStore],
    folder: Path,
    key: str = KEY,
    flush_every_steps: int = 5,
    uri: str | None = None,
    tags: dict[str, str] | None = None,
    step: int = 0,
    pipeline: Pipeline | None = None,
    phase: str = "phase1",
    **params: object,
) -> Training:
    """Begin or continue the run of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    curve = Curve(folder / "curve.jsonl")
    record = new_tracked_run(key, phase, params, {"phase": phase} | (tags or {}), DATASET)
    record = replace(record, pipeline=pipeline)
    tracking = TrackingParams(
        experiment="xtts-finetune", uri=uri, log_every_steps=1, flush_every_steps=flush_every_steps
    )
    connect = (lambda: store) if isinstance(store, TrackingStore) else store
    return Training(curve, track(connect, tracking, folder, record, lambda: curve.rows, step))


def history(store: TrackingStore, run_id: str | None, key: str = "train/loss") -> list[tuple[int, float]]:
    assert run_id
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, key))


def line(last: int, first: int = 1) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in range(first, last + 1)]


def unplugged(*_: Any, **__: Any) -> Any:
    """A gate, or a way to connect, of a server that is away."""
    raise ConnectionError("unplugged")


class LateAnswer:
    """A way to connect that hangs for as long as the block lasts."""

    def __init__(self, store: TrackingStore) -> None:
        self._store, self._answered = store, threading.Event()

    def __call__(self) -> TrackingStore:
        assert self._answered.wait(60)
        return self._store

    def __enter__(self) -> "LateAnswer":
        return self

    def __exit__(self, *_: object) -> None:
        self._answered.set()


class Client:
    """The real client, but metrics pass a gate first."""

    def __init__(self, store: TrackingStore, gate: Any) -> None:
        self._client, self._gate = store.client, gate

    def log_batch(self, run_id: str, metrics: Any = (), **others: Any) -> None:
        if metrics:
            self._gate(metrics)
        self._client.log_batch(run_id, metrics=metrics, **others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def through(store: TrackingStore, gate: Any) -> TrackingStore:
    client: Any = Client(store, gate)
    return replace(store, client=client)


def artifact_folder(store: TrackingStore, version: Version) -> Path:
    """The files of a version's model, as anybody with MLflow gets them: in place, or downloaded from a server."""
    from mlflow.artifacts import download_artifacts

    uri = store.client.get_model_version_download_uri(version.name, str(version.version))
    return Path(download_artifacts(artifact_uri=f"{uri}/{MODEL_FOLDER}", tracking_uri=store.uri))
