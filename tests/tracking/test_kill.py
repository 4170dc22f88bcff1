import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import Store
from xtts_finetune.tracking.delivery import RunTracker

CHILD = """
import itertools, sys, time
from pathlib import Path
from xtts_finetune.core.params import TrackingParams
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.delivery import RunTracker

tracking = TrackingParams(experiment="xtts-finetune", uri=None, flush_every_steps=5)
store = open_store(Workspace(Path(sys.argv[1])), tracking)
tracker = RunTracker.start(store, "phase1", "key", {}, {}, None, 1000)
curve = open(sys.argv[2], "w")
for step in itertools.count(1):
    print(step, step / 2, file=curve, flush=True)
    tracker.log(step, {"train/loss": step / 2})
    time.sleep(0.02)
"""


def test_kill_9_costs_no_point_and_doubles_none(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "curve"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(workspace.root), str(path)], env=environment)
    rows: list[str] = []
    stored = 0  # only the first flush happens before the kill
    try:
        while not stored or len(rows) < stored + 20:
            assert child.poll() is None
            time.sleep(0.05)
            rows = path.read_text().splitlines() if path.exists() else []
            runs = store.client.search_runs([store.experiment_id])
            stored = len(history(store, runs[0].info.run_id)) if runs else 0
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    curve = [(int(step), float(value)) for step, value in map(str.split, path.read_text().splitlines())]
    end = len(curve) + 20
    with RunTracker.start(store, "phase1", "key", {}, {}, None, 5) as tracker:
        assert len(history(store, tracker.run_id)) == stored < len(curve)
        tracker.backfill((step, {"train/loss": value}) for step, value in curve)
        for step, value in line(end)[-31:]:  # the state it resumes from is older
            tracker.log(step, {"train/loss": value})
    assert history(store, tracker.run_id) == line(end)


def history(store: Store, run_id: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, "train/loss"))


def line(last: int) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in range(1, last + 1)]
