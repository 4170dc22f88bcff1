import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runs import begin, history, line

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.curve import Row, read_rows

CHILD = """
import itertools, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from runs import LOCAL, begin
from runs import begin, history, line

from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import open_store

training = begin(open_store(Workspace(Path(sys.argv[1])), LOCAL), Path(sys.argv[2]), flush_every_steps=1000)
for step in itertools.count(1):
    training.log(step, time=step, train__loss=step / 2)
    time.sleep(0.02)
"""


def test_kill_9_costs_no_point_and_doubles_none(store: TrackingStore, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(workspace.root), str(folder), str(Path(__file__).parent)]
    child = subprocess.Popen(command, env=environment)
    rows: list[Row] = []
    stored = 0  # only the first flight happens before the kill
    try:
        while not stored or len(rows) < stored + 20:
            assert child.poll() is None
            time.sleep(0.05)
            rows = list(read_rows(folder / "curve.jsonl"))
            runs = store.client.search_runs([store.experiment_id])
            stored = len(history(store, runs[0].info.run_id)) if runs else 0
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    training = begin(store, folder)
    end = len(training.curve.rows) + 20
    with training.tracker as tracker:
        assert len(history(store, tracker.run_id)) == stored < len(training.curve.rows)
        kept = training.curve.rows[:-11]  # the state it resumes from is older
        training.curve.resume(len(kept), kept)
        training.line(end, first=len(kept) + 1)
    assert history(store, tracker.run_id) == line(end)
