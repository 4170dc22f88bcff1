"""Stages of a tiny model as real processes, at 2 s each, in a workspace where something can be made to happen.

`Server` is the client of `stage_server`; `Small` is a workspace with a GPT of one layer, 6 steps a phase, every step
saved. What a run leaves is compared with an undisturbed run that kept all its states (`Reference`).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from making.project import PROJECT

Stage = tuple[str, ...]
STAGES: tuple[Stage, ...] = (("train", "phase1"), ("train", "phase2"), ("evaluate",))
PHASE1, PHASE2, EVALUATE = STAGES
PHASES = ("phase1", "phase2")
TRAINING = ("train/mel_ce", "train/text_ce", "train/loss", "train/lr", "train/grad_norm")
METRICS = (*TRAINING, "eval/mel_ce", "eval/text_ce", "eval/loss")
DONE, USER, RESUMABLE, KILLED = 0, 2, 75, -signal.SIGKILL
LONG = "XTTS_FINETUNE_FAULTS" in os.environ  # `make faults`
# of every file that places faults in these stages
FAULT_TESTS = [
    pytest.mark.slow,
    pytest.mark.timeout(6 * 3600 if LONG else 900),
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
]
SEED = int(os.environ.get("XTTS_FINETUNE_FAULTS_SEED", "42"))

T = TypeVar("T")
Points = dict[str, list[tuple[int, float]]]  # of MLflow: metric → (step, value), by step


class Server:
    """Starts stages in forks of a process that has everything imported."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(PROJECT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            [sys.executable, str(PROJECT / "tests" / "stage_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def make(self, root: Path) -> "Small":
        assert self.ask(make=str(root), log=f"{root}.log") == 0, Path(f"{root}.log").read_text()
        return Small(self, root)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


# What happens to a stage just before its n-th change to the workspace, from 1, or to "part of a path#n": the name of a
# signal; "fill 4096", which takes all room on its file system but these bytes; "free", which gives it back; "exhaust
# step.losses 5", which lets the fifth call of a function of training/ from then on meet an allocation that fails.
At = Mapping[int | str, str]


@dataclass(frozen=True)
class Fork:
    """A stage that was started."""

    server: Server
    pid: int
    log: Path

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        code: int = self.server.ask(wait=self.pid, hang=True)
        return code

    def poll(self) -> int | None:
        code: int | None = self.server.ask(wait=self.pid, hang=False)
        return code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Small:
    """A workspace of a tiny model.

    Attributes:
        environment: variables that its stages have besides.
    """

    server: Server
    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def copy(self, root: Path) -> "Small":
        """Another one in the same state, with its links."""
        subprocess.run(["cp", "--archive", str(self.root), str(root)], check=True)
        return replace(self, root=root)

    def remove(self) -> None:
        shutil.rmtree(self.root)

    def start(self, *stage: str, at: At | None = None, log: Path | None = None) -> Fork:
        """As DVC does: what the stage declared as its outs is deleted first. Its output goes to `log`."""
        for out in _outs(stage):
            path = self.root / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return self.start_without_deleting(*stage, at=at, log=log)

    def start_without_deleting(self, *stage: str, at: At | None = None, log: Path | None = None) -> Fork:
        """As people do."""
        return self._fork(stage, at or {}, str(log or self._beside("log")))

    def run(self, *stage: str, at: At | None = None, code: int = DONE) -> str:
        """A stage to its end, which must be this; what it said."""
        fork = self.start(*stage, at=at)
        ended = fork.wait()
        assert ended == code, f"{' '.join(stage)}: exit code {ended}, not {code}\n{fork.said}"
        return fork.said

    def run_unheard(self, *stage: str) -> int:
        """Without anyone who reads what it says; its exit code."""
        return self._fork(stage, {}, None).wait()

    def repro(self) -> None:
        for stage in STAGES:
            self.run(*stage)

    def change_params(self, change: Callable[[dict[str, Any]], None]) -> None:
        file = self.root / "params.yaml"
        params = yaml.safe_load(file.read_text(encoding="utf-8"))
        change(params)
        file.write_text(yaml.safe_dump(params), encoding="utf-8")

    @property
    def events(self) -> int:
        """Changes to the workspace that the last stage made or was about to make."""
        return int(self._beside("events").read_text())

    def _fork(self, stage: Stage, at: At, log: str | None) -> Fork:
        count = str(self._beside("events"))
        asked = {"log": log, "count": count, "at": at, "environment": self.environment}
        pid = self.server.ask(stage=stage, root=str(self.root), **asked)
        return Fork(self.server, pid, Path(log or os.devnull))

    def _beside(self, name: str) -> Path:
        """Not on the workspace's disk, which may be full."""
        place = self.root.parent.parent if self.root.parent.is_mount() else self.root.parent
        return place / f"{self.root.name}.{name}"

    # What it holds.

    def folders(self, phase: str) -> dict[str, dict[str, str]]:
        """Every state and best under its final name, wherever it lies: digests of its files."""
        folders: dict[str, dict[str, str]] = {}
        for place in "work", "checkpoints":
            for folder in sorted((self.root / place / phase).glob("[sb]*-*")):
                if folder.is_dir() and (folder / "manifest.json").exists():
                    folders[f"{place}/{phase}/{folder.name}"] = _digests(folder)
        return folders

    def states(self, phase: str) -> list[int]:
        """Steps of the states in work/."""
        manifests = (self.root / "work" / phase).glob("step-*/manifest.json")
        return sorted(int(manifest.parent.name.removeprefix("step-")) for manifest in manifests)

    def results(self, phase: str) -> dict[str, str]:
        """What depends on every step of the phase: digests of its best, its curve and its figures."""
        best = max((self.root / "checkpoints" / phase).glob("best-*"))
        files = [
            *(best / name for name in ("model.safetensors", "state.json")),
            *(self.root / "models" / phase).iterdir(),
            self.root / "checkpoints" / phase / "DONE",
            self.root / "reports" / f"train_{phase}.json",
            self.root / "reports" / f"curve_{phase}.csv",
        ]
        return {file.relative_to(self.root).as_posix(): _digest(file) for file in files}

    def evaluation(self) -> dict[str, str]:
        reports = self.root / "reports"
        files = [reports / "evaluation.json", *(reports / "samples").rglob("*.wav")]
        return {file.relative_to(self.root).as_posix(): _digest(file) for file in files}

    def leftovers(self) -> list[str]:
        """What an unfinished write leaves."""
        unfinished = [path.relative_to(self.root).as_posix() for path in self.root.rglob(".*.tmp")]
        return unfinished + [path.name for path in (self.root / "mlruns").glob("mlflow.db?*")]

    def points(self, stage: str) -> Points:
        """Of the one MLflow run that a stage has, which must have ended well."""
        with closing(sqlite3.connect(self.root / "mlruns" / "mlflow.db")) as database:
            tagged = "SELECT run_uuid FROM tags WHERE key = 'phase' AND value = ?"
            runs = list(database.execute(f"SELECT run_uuid, status FROM runs WHERE run_uuid IN ({tagged})", [stage]))
            assert [status for _, status in runs] == ["FINISHED"], runs
            rows = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", [runs[0][0]])
            points: Points = defaultdict(list)
            for key, step, value in rows:
                points[key].append((step, value))
        return {key: sorted(values) for key, values in points.items()}

    @cached_property
    def versions(self) -> list[tuple[int, str]]:
        """Of the registered model, with the digest of its weights where they lie."""
        with closing(sqlite3.connect(self.root / "mlruns" / "mlflow.db")) as database:
            rows = list(database.execute("SELECT version, source FROM model_versions ORDER BY version"))
        weights = "artifacts/model/model.safetensors"
        return [(version, _digest(Path(source.removeprefix("file://")) / weights)) for version, source in rows]


Before = dict[Stage, Small]  # of every stage a workspace in which those before it were run


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run gave, whose states were all kept."""

    whole: Small

    @cached_property
    def folders(self) -> dict[str, dict[str, str]]:
        """By phase and name, e.g. phase1/step-00000003."""
        return {
            "/".join(name.split("/")[1:]): digests
            for phase in PHASES
            for name, digests in self.whole.folders(phase).items()
        }

    @cached_property
    def _results(self) -> dict[str, dict[str, str]]:
        return {phase: self.whole.results(phase) for phase in PHASES}

    @cached_property
    def _points(self) -> dict[str, Points]:
        return {stage: self.whole.points(stage) for stage in (*PHASES, "evaluate")}

    def check_folders(self, small: Small) -> None:
        """Whatever stands under a final name is whole, and has the bytes of the run never stopped."""
        for phase in PHASES:
            for name, digests in small.folders(phase).items():
                place = "/".join(name.split("/")[1:])
                if "best-" in place and place not in self.folders:  # an earlier best than the last one
                    state = self.folders[place.replace("best-", "step-")]
                    assert {
                        file: digests[file] for file in ("model.safetensors", "state.json")
                    }.items() <= state.items()
                else:
                    assert digests == self.folders[place], name
                listed = json.loads((small.root / name / "manifest.json").read_text())["files"]
                assert {file: entry["sha256"] for file, entry in listed.items()}.items() <= digests.items(), name
                assert len(listed) == len(digests) - 1, name

    def check_phase(self, small: Small, phase: str) -> None:
        """A done phase: same results, and MLflow has one run of it with no gap and no point twice."""
        self.check_folders(small)
        assert small.results(phase) == self._results[phase]
        points = small.points(phase)
        for metric in METRICS:
            assert points.get(metric) == self._points[phase][metric], metric

    def check(self, small: Small) -> None:
        """All three stages done, as if nothing had happened."""
        for phase in PHASES:
            self.check_phase(small, phase)
        assert small.evaluation() == self.whole.evaluation()
        points = small.points("evaluate")
        for metric in ("eval/mel_ce", "eval/text_ce"):
            assert points[metric] == self._points["evaluate"][metric]
        assert small.versions == self.whole.versions
        assert not small.leftovers(), small.leftovers()

    def check_stage(self, small: Small, stage: Stage) -> None:
        """The stage done, as if nothing had happened."""
        if stage == EVALUATE:
            self.check(small)
        else:
            self.check_phase(small, stage[1])
            assert not small.leftovers(), small.leftovers()


def some(items: Sequence[T], few: int, *salt: object) -> list[T]:
    """`few` of these, chosen by the seed, in their order; all of them in `make faults`."""
    chosen = range(len(items)) if LONG else random.Random(f"{SEED} {salt}").sample(range(len(items)), few)
    return [items[at] for at in sorted(chosen)]


@contextmanager
def a_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def _outs(stage: Stage) -> list[str]:
    """dvc.yaml's, of a stage."""
    if stage[0] == "train":
        phase = stage[1]
        return [f"checkpoints/{phase}", f"models/{phase}", f"reports/train_{phase}.json", f"reports/curve_{phase}.csv"]
    return ["reports/samples", "reports/evaluation.json", "reports/curves.png", "reports/registration.json"]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: _digest(file) for file in sorted(folder.iterdir())}
