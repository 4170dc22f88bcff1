"""Names on disk: the one place where the layout of a workspace is written down.

work/phase1/step-00000200/     a resumable state: WEIGHTS, EMA, OPTIMIZER, curve segments, STATE, the MANIFEST of all
work/phase1/best-00000150/     the best weights so far: WEIGHTS (its state's WEIGHTS or EMA, one inode), STATE, MANIFEST
work/phase1/DONE               the phase is complete
work/phase1/CURVE, SYSTEM      the spool of its run in MLflow: the learning curve; what the machine did meanwhile
work/phase1/SAMPLES/<step>/    what the run said at that step of its training, for its page in MLflow
work/phase1/DELIVERY           what of these is delivered
work/undelivered/<key>/        a run that ended before MLflow had all of it: DELIVERY, CURVE, SAMPLES, and of an
                               evaluation FIGURES, BUNDLE and SERVING, the model that waits to be registered
work/queue/                    the same of experiments of DVC's queue, which run in copies of the checkout
work/phase1.<key>/             a run that was moved aside ("parked"): all that work/phase1/ held, under the run's key
work/rebuilt/phase1.<key>/     states of the run of that key that `rebuild` made again
work/pace.json                 seconds a step of each phase took here
work/registered.json           of the version in the receipt: in which registry, and whether it was deleted
work/journal.jsonl             when stages began, went on, stopped and ended, and the room on the disk
work/rebuilt.lock              held by who trains steps again
work/workspace.id              tells this workspace's runs from those of other clones on one MLflow server
work/digests.json              SHA-256 of large files outside, so that they are read once
work/phase1.reserve            room for the weights of a best, given up while they are written
work/stopped.txt               why the last stage stopped, and how to go on
work/status.reserve            room for it, and for reports/status.md
work/phase1.lock, .holder      one trainer at a time, and who it is
work/models.lock               held by who measures models/, or restores to it
work/base.lock                 held by who fetches into base/
work/pipelines.lock            held by who brings MLflow the run that phases and evaluations come under
work/promotions.lock           held by who moves the champion
work/promotions.json           the lines of the log that were written here, or seen in MLflow
work/promotion.jsonl           the line that is being written: a kill leaves it to the next command
registry/promotions.jsonl      who became champion, why, and by which figures: an entry a line
checkpoints/phase1/            what of work/phase1/ is kept of a complete phase
models/phase1/                 the exported best: WEIGHTS and its MODEL_CARD
a bundle                       what is registered and speaks by itself: an exported best, base/, REFERENCE, SETTINGS
an export, anywhere else       what Coqui's own class loads: COQUI_MODEL, COQUI_SPEAKERS, CONFIG, VOCABULARY; EXPORT_*
both                           CARD, LINEAGE and DATA_CARD: what it is, where it comes from, and of which recordings
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

PhaseName = Literal["phase1", "phase2"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
SplitName = Literal["train", "eval"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
DVC_COPIES = (".dvc", "tmp", "exps")  # where DVC makes copies of a checkout for the experiments of its queue
DVC_ROOT, DVC_EXPERIMENT = "DVC_ROOT", "DVC_EXP_NAME"  # what it tells a stage: whose copy, and what it is called

# of a state or a best
WEIGHTS = "model.safetensors"
EMA = "ema.safetensors"  # of a state alone: the average of the weights, where there is one
OPTIMIZER = "optimizer.safetensors"
CURVE = "curve.jsonl"  # of the running phase, and of states of format 1: a JSON line per step and evaluation
STATE = "state.json"
MANIFEST = "manifest.json"  # vouches for all the others; a folder without it is no checkpoint
# of a phase
DONE = "DONE"
SYSTEM = "system.jsonl"  # what the machine did meanwhile: a JSON line per sample, for MLflow alone
DELIVERY = "delivery.json"  # the phase's run in MLflow, and how far its curve has got there
SAMPLES = "samples"  # of the running phase: a folder for every step at which it spoke
# of an ended run that is not delivered yet
FIGURES = "artifacts"  # files for its page
BUNDLE = "bundle"
SERVING = "serving.py"  # the code that lets a bundle speak
_UNDELIVERED = "undelivered"
# of samples
SENTENCES = "sentences.csv"  # what each file says
# of prepared/
FEATURES = "features.json"  # SHA-256 of every features file
# of an exported best
MODEL_CARD = "model.json"
# of a bundle, beside an exported best
BUNDLE_BASE = "base"
REFERENCE = "reference.wav"  # the voice that it speaks in
SETTINGS = "speak.json"
# of prepared/base/ and of a bundle's base/
BASE_INFO = "base.json"
CONFIG = "config.json"
VOCABULARY = "vocab.json"
MEL_STATS = "mel_stats.safetensors"
CODEC = "dvae.safetensors"
VOCODER = "vocoder.safetensors"
NEW_ROWS = "new_rows.safetensors"  # of the tokens that an extended vocabulary adds to the base's own
BASE_FILES = (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS)  # of every base, beside what turns codes into sound
BUNDLE_BASE_FILES = tuple(f"{BUNDLE_BASE}/{name}" for name in BASE_FILES)
# of an export, beside CONFIG and VOCABULARY: as Coqui's Xtts.load_checkpoint looks for them
COQUI_MODEL = "model.pth"
COQUI_SPEAKERS = "speakers_xtts.pth"
EXPORT_CARD = "export.json"  # says what it is: by it an earlier export is known
EXPORT_LICENCE = "LICENSE.txt"
# of a bundle and of an export
CARD = "README.md"  # for people
LINEAGE = "lineage.json"
DATA_CARD = "croissant.json"

CheckpointKind = Literal["step", "best"]
_CHECKPOINT = re.compile(r"(step|best)-(\d{8,})")
_SEGMENT = re.compile(r"curve-\d{8,}\.jsonl")
_KEY = "[0-9a-f]{16}"
_PARKED = re.compile(rf"({'|'.join(PHASES)})\.({_KEY})(-\d+)?")  # numbered where two runs have one key


def checkpoint_name(kind: CheckpointKind, step: int) -> str:
    """The folder of a state ("step") or of best weights ("best")."""
    return f"{kind}-{step:08d}"


def checkpoint_step(name: str, kind: CheckpointKind) -> int | None:
    """The step of a folder of that kind; None if it is called otherwise."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[2]) if match and match[1] == kind else None


def spoken_in(run: Path) -> dict[int, Path]:
    """The folders of what a run said, in the folder of the run, by the step that it said it at."""
    steps = {checkpoint_step(folder.name, "step"): folder for folder in sorted((run / SAMPLES).glob("*"))}
    return {step: folder for step, folder in steps.items() if step is not None}


def curve_segment(first_step: int) -> str:
    """The file of a state that holds its curve from this step on."""
    return f"curve-{first_step:08d}.jsonl"


def is_curve_segment(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def is_checkpoint_name(name: str) -> bool:
    return _CHECKPOINT.fullmatch(name) is not None


def is_run_key(text: str) -> bool:
    """Whether it can be the key of a run, which names a folder."""
    return re.fullmatch(_KEY, text) is not None


def is_undelivered(folder: Path) -> bool:
    """Whether a run's folder is one of `Workspace.undelivered`, and nothing but what MLflow has yet to get."""
    return folder.parent.name == _UNDELIVERED


def parked_key(name: str, phase: PhaseName) -> str | None:
    """The key of the run that a folder in work/ holds parked; None if it is called otherwise, or of another phase."""
    match = _PARKED.fullmatch(name)
    return match[2] if match and match[1] == phase else None


def reserve_of(work: Path) -> Path:
    return work.with_name(f"{work.name}.reserve")


def lock_of(work: Path) -> Path:
    return work.with_name(f"{work.name}.lock")


def holder_of(work: Path) -> Path:
    return work.with_name(f"{work.name}.holder")


@dataclass(frozen=True)
class Workspace:
    """A checkout of the project: the current run. DVC runs every stage with its root as working folder."""

    root: Path

    @classmethod
    def here(cls) -> "Workspace":
        return cls(Path.cwd())

    @property
    def home(self) -> "Workspace":
        """Where people work: of the copy in which DVC runs an experiment of its queue, which it deletes afterwards, the
        checkout that it was queued in. States (in work/queue/), and what MLflow gets, are kept there.
        """
        for place in self.root.absolute().parents:
            if place.parts[-3:] == DVC_COPIES:
                return Workspace(place.parents[2])
        return self

    @property
    def is_copy(self) -> bool:
        """Whether DVC made it for an experiment of its queue."""
        return self.home is not self

    @property
    def queue(self) -> "Workspace":
        """What every copy of this checkout has in common: its states, and what of it MLflow has yet to get."""
        return Workspace(self.root.joinpath(*DVC_COPIES, "any"))

    def copies(self) -> list[Path]:
        """Those that are there: of experiments that run, or were killed with the machine."""
        places = [self.root.joinpath(*DVC_COPIES), self.root.joinpath(*DVC_COPIES, "standalone")]
        return sorted(copy for place in places for copy in place.glob("tmp*"))

    @property
    def _work(self) -> Path:
        return self.home.root / "work" / "queue" if self.is_copy else self.root / "work"

    @property
    def _shared_work(self) -> Path:
        return self.home.root / "work"

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
    def consent(self) -> Path:
        """Who speaks in the recordings and agreed to what; it may be left out."""
        return self.data / "consent.yaml"

    @property
    def base(self) -> Path:
        """Published base models, one folder each (base/xtts_v2/)."""
        return self.root / "base"

    @property
    def base_checked(self) -> Path:
        """What the stage check found the base to be: SHA-256 by file; what is made of the base depends on it."""
        return self.base / "checked.json"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def tracking_db(self) -> Path:
        return self.home.root / "mlruns" / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """What MLflow's runs and models keep as files, models/<id>/artifacts each."""
        return self.tracking_db.parent / "artifacts"

    def work(self, phase: PhaseName) -> Path:
        """The running phase's states; known to neither git nor DVC, so that a crash never costs them."""
        return self._work / phase

    def parked_work(self, phase: PhaseName, key: str) -> Path:
        """Where a run's work lies while another run has its place."""
        return self._shared_work / f"{phase}.{key}"

    @property
    def rebuilding(self) -> Path:
        """Where steps are trained again."""
        return self._work / "rebuilt"

    def rebuilt(self, phase: PhaseName, key: str) -> Path:
        """The states of a run that were made again."""
        return self.rebuilding / f"{phase}.{key}"

    @property
    def rebuilt_lock(self) -> Path:
        return lock_of(self.rebuilding)

    @property
    def pace(self) -> Path:
        """How fast the phases trained on this machine."""
        return self._shared_work / "pace.json"

    @property
    def journal(self) -> Path:
        """What happened here, and when: a JSON line each."""
        return self._work / "journal.jsonl"

    @property
    def registered(self) -> Path:
        """What is known here of the version in `registration`, which is an out of DVC's."""
        return self._work / "registered.json"

    @property
    def digests(self) -> Path:
        """Remembers the SHA-256 of large files that do not change."""
        return self._work / "digests.json"

    @property
    def whole_weights(self) -> Path:
        """Where weights lie while they are put together for the registry."""
        return self._work / "whole"

    @property
    def downloads(self) -> Path:
        """Where what `export` fetches from a server lies meanwhile."""
        return self._work / "export"

    @property
    def compared(self) -> Path:
        """Where the files of a registered version lie while `promote` measures it."""
        return self._work / "compared"

    def running_curve(self, phase: PhaseName) -> Path:
        """A JSON line per step and evaluation of the running phase."""
        return self.work(phase) / CURVE

    def spoken(self, phase: PhaseName, step: int) -> Path:
        """What the running phase said at this step: 1.wav and so on, and SENTENCES."""
        return self.work(phase) / SAMPLES / checkpoint_name("step", step)

    @property
    def undelivered(self) -> Path:
        """Runs that ended before MLflow had all of them, a folder each."""
        return self._work / _UNDELIVERED

    @property
    def id_file(self) -> Path:
        """The workspace's id: not committed, so that every clone has its own."""
        return self._shared_work / "workspace.id"

    @property
    def pipelines_lock(self) -> Path:
        return lock_of(self._shared_work / "pipelines")

    @property
    def page_reserve(self) -> Path:
        """Room for `stopped` and `status_page`, and for DVC to say what may go, while a stage runs."""
        return reserve_of(self._work / "status")

    def checkpoints(self, phase: PhaseName) -> Path:
        return self.root / "checkpoints" / phase

    def model(self, phase: PhaseName) -> Path:
        return self.root / "models" / phase

    @property
    def base_lock(self) -> Path:
        return lock_of(self._work / "base")

    @property
    def promotions(self) -> Path:
        """The log of promotions, which is committed."""
        return self.root / "registry" / "promotions.jsonl"

    @property
    def promotions_known(self) -> Path:
        """Digests of the entries of `promotions` that were written in this workspace, or that MLflow had."""
        return self._work / "promotions.json"

    @property
    def promotion_begun(self) -> Path:
        """The entry that is being written to `promotions`."""
        return self._work / "promotion.jsonl"

    @property
    def promotions_lock(self) -> Path:
        return lock_of(self._work / "promotions")

    @property
    def models_lock(self) -> Path:
        return lock_of(self._work / "models")

    def curve(self, phase: PhaseName) -> Path:
        return self.reports / f"curve_{phase}.csv"

    def metrics(self, phase: PhaseName) -> Path:
        return self.reports / f"train_{phase}.json"

    @property
    def stopped(self) -> Path:
        """Why the last stage stopped, and how to go on; not there while nothing is the matter."""
        return self._work / "stopped.txt"

    @property
    def status_page(self) -> Path:
        """Where the run stands, as it was when the last stage ended or stopped."""
        return self.reports / "status.md"

    @property
    def status_picture(self) -> Path:
        """That `status_page` shows."""
        return self.reports / "status.svg"

    @property
    def report_page(self) -> Path:
        """The same with more to look at and to listen to, in one file, for a browser."""
        return self.reports / "index.html"

    @property
    def experiments_picture(self) -> Path:
        """The curves of DVC's experiments, and what they came to."""
        return self.reports / "experiments.svg"

    @property
    def samples(self) -> Path:
        """What base and phases say, a folder of WAV each, and the recording beside them; sentences.csv."""
        return self.reports / "samples"

    @property
    def dataset_report(self) -> Path:
        """What prepare made of the recordings, and what it rejected."""
        return self.reports / "dataset.json"

    @property
    def data_card(self) -> Path:
        """The recordings in Croissant, for other programs."""
        return self.reports / DATA_CARD

    @property
    def requirements(self) -> Path:
        """Every package with its SHA-256."""
        return self.root / "requirements.lock"

    @property
    def evaluation(self) -> Path:
        return self.reports / "evaluation.json"

    @property
    def registration(self) -> Path:
        """What evaluate registered: model name, version, aliases."""
        return self.reports / "registration.json"
