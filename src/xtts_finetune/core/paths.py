"""Names on disk: the one place where the layout of a workspace is written down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

PhaseName = Literal["phase1", "phase2"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
SplitName = Literal["train", "eval"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Workspace:
    """A checkout of the project: the current run. DVC runs every stage with its root as working folder."""

    root: Path

    @classmethod
    def here(cls) -> "Workspace":
        return cls(Path.cwd())

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def dvc_lock(self) -> Path:
        return self.root / "dvc.lock"

    @property
    def data(self) -> Path:
        """Raw recordings: metadata.csv and wavs/, tracked by data.dvc."""
        return self.root / "data"

    @property
    def data_dvc(self) -> Path:
        return self.root / "data.dvc"

    @property
    def base(self) -> Path:
        """Published base models, one folder each (base/xtts_v2/)."""
        return self.root / "base"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def tracking_db(self) -> Path:
        return self.root / "mlruns" / "mlflow.db"

    def work(self, phase: PhaseName) -> Path:
        """The running phase's states; known to neither git nor DVC, so that a crash never costs them."""
        return self.root / "work" / phase

    def running_curve(self, phase: PhaseName) -> Path:
        """A JSON line per step and evaluation of the running phase."""
        return self.work(phase) / "curve.jsonl"

    def checkpoints(self, phase: PhaseName) -> Path:
        return self.root / "checkpoints" / phase

    def model(self, phase: PhaseName) -> Path:
        return self.root / "models" / phase

    def curve(self, phase: PhaseName) -> Path:
        return self.reports / f"curve_{phase}.csv"

    def metrics(self, phase: PhaseName) -> Path:
        return self.reports / f"train_{phase}.json"

    @property
    def status(self) -> Path:
        """Why the last stage stopped, and how to go on; not there while nothing is the matter."""
        return self.reports / "status.md"

    @property
    def evaluation(self) -> Path:
        return self.reports / "evaluation.json"

    @property
    def registration(self) -> Path:
        """What evaluate registered: model name, version, aliases."""
        return self.reports / "registration.json"
