"""Which run it is: all that shapes its weights, apart from what only says how long it goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from xtts_finetune.core.files import sha256_file, sha256_json
from xtts_finetune.core.layout import CONFIG, FEATURES, MEL_STATS, MODEL_CARD, SPLITS, VOCABULARY, PhaseName, Workspace
from xtts_finetune.core.look import once_a_look
from xtts_finetune.core.params import Params
from xtts_finetune.core.prepared_base import PREPARE_AGAIN, prepared_base, read_left

TRAINED_WITH = "trained_with"  # the entry of a MODEL_CARD
FORMAT = 2  # of a state; 1 had no number, and keyed the optimiser's moments by index
KEY_DIGITS = 16
_DIGESTS = ("data", "initial_weights", "base_files")
STOPPING_RULES = ("epochs", "target_mel_ce", "patience", "stop_when_overfitting")
_PACKAGE = Path(__file__).parents[1]
# What shapes the weights, relative to the package. dvc.yaml names the same, and the stopping rules, as dependencies.
SOURCES = (
    "core/constants.py",
    "data/audio.py",
    "data/batches.py",
    "data/features.py",
    "model/base.py",
    "model/device.py",
    "model/forward.py",
    "model/header.py",
    "model/rows.py",
    "model/trained.py",
    "model/xtts.py",
    "training/ema.py",
    "training/feed.py",
    "training/graphs.py",
    "training/half.py",
    "training/inputs.py",
    "training/loop.py",
    "training/loss.py",
    "training/meter.py",
    "training/optim.py",
    "training/packing.py",
    "training/phases.py",
    "training/place.py",
    "training/plan.py",
    "training/position.py",
    "training/run.py",
    "training/share.py",
    "training/snapshot.py",
    "training/step.py",
    "training/team.py",
)
_CARD_AGAIN = "bring it back: dvc checkout --force models/phase1, or run: dvc repro -f train_phase1"
_UNKNOWN = object()
# What states of before do not tell, and what it was then.
_BEFORE: dict[str, Any] = {
    "base_files": _UNKNOWN,
    "method": "full",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "gradient_checkpointing": False,
    "evaluate_every_steps": None,
    "voice_prompts": "filled up with silence",
}


@dataclass(frozen=True)
class Identity:
    """Of a run: equal identities give equal weights, step by step, under the same versions of torch and Coqui."""

    phase: PhaseName
    trajectory: dict[str, Any]  # data, base, initial weights, seed and what else shapes the weights, as flat JSON
    code: str  # digest of the sources that shape the weights; "" in states of before it was recorded

    @property
    def key(self) -> str:
        """The run's name for the checkpoint store and for MLflow."""
        return sha256_json([self.trajectory, self.code])[:KEY_DIGITS]

    def changes(self, before: "Identity") -> list[str]:
        """What differs from the run `before`, e.g. "train_phase1.lr 1e-05 → 5e-06"."""
        names = sorted(key for key in self.trajectory | before.trajectory if self._differs(before, key))
        changes = [self._change(before, name) for name in names]
        return changes or (["the code"] if self.code != before.code else [])

    def has_trajectory_of(self, before: "Identity") -> bool:
        """Whether nothing that shapes the weights differs but, perhaps, the code."""
        return not any(self._differs(before, name) for name in self.trajectory | before.trajectory)

    def _differs(self, before: "Identity", name: str) -> bool:
        old = before._setting(name)
        return old is not _UNKNOWN and bool(self.trajectory.get(name) != old)

    def _setting(self, name: str) -> Any:
        return self.trajectory.get(name, _BEFORE.get(name.rpartition(".")[2]))

    def _change(self, before: "Identity", name: str) -> str:
        old, new = before._setting(name), self.trajectory.get(name)
        return name if name in _DIGESTS else f"{name} {old} → {new}"


@dataclass(frozen=True)
class Record:
    """What a run writes of itself beside its weights: what it was started as, and the code that went on with it."""

    identity: Identity
    newer_code: tuple[tuple[int, str], ...] = ()  # (the step it went on from, digest)

    @property
    def code(self) -> str:
        """The newest that trained it."""
        return self.newer_code[-1][1] if self.newer_code else self.identity.code

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "phase": self.identity.phase,
            "key": self.identity.key,
            "trajectory": self.identity.trajectory,
            "code": self.identity.code,
            "newer_code": [list(change) for change in self.newer_code],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Of a state.json or DONE, also of format 1, whose fingerprint held the stopping rules, too.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if "format" not in content:
            fingerprint = content["fingerprint"]
            trajectory = {key: value for key, value in fingerprint.items() if not _only_stops(key, fingerprint)}
            return cls(Identity(fingerprint["phase"], trajectory, content.get("code", "")))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        identity = Identity(content["phase"], dict(content["trajectory"]), str(content["code"]))
        return cls(identity, tuple((int(step), str(digest)) for step, digest in content["newer_code"]))


def identity_of(workspace: Workspace, params: Params, phase: PhaseName) -> Identity | None:
    """Of the run that the parameters ask for; None where prepare or the phase before has not run yet.

    Cheap: it reads JSON, and hashes neither features nor weights.

    Raises:
        UserError: what prepare or the phase before left is damaged.
    """
    start, data = _start(workspace, phase), _data(workspace)
    if start is None or data is None:
        return None
    settings = {f"train_{phase}.{key}": value for key, value in params.phase(phase).model_dump().items()}
    everything = {
        "phase": phase,
        "seed": params.seed,
        "data": data,
        "voice_prompts": "of one length",
        **start,
        **settings,
    }
    trajectory = {key: value for key, value in everything.items() if not _only_stops(key, everything)}
    return Identity(phase, trajectory, code_digest())


def origin_of(workspace: Workspace) -> dict[str, str]:
    """Digests of what a phase is trained with, whatever weights it starts from.

    Raises:
        UserError: what prepare left is damaged.
    """
    base = workspace.prepared / "base"
    files = [base / name for name in (CONFIG, VOCABULARY, MEL_STATS)]  # its weights come from the leader
    return {
        "the prepared clips": _data(workspace) or "",
        "the base": sha256_json([sha256_file(file) for file in files if file.is_file()]),
        "the code": code_digest(),
    }


def prepared_here(workspace: Workspace) -> dict[str, str]:
    """SHA-256 of what `prepare` left for a model: of the recordings' features, the base's files and its weights.

    What versions of before did not write down is left out.

    Raises:
        UserError: what it left is damaged.
    """
    start = _start(workspace, "phase1")
    files, weights = (start.get("base_files"), start["initial_weights"]) if start else (None, None)
    return _known(_data(workspace), files, weights)


def trained_with(workspace: Workspace, run: Identity) -> dict[str, str]:
    """The same of what a run was trained with: only beside that its models speak as they learnt to.

    Raises:
        UserError: the card of phase 1, which knows where phase 2 began, is damaged.
    """
    data, files, start = (run.trajectory.get(name) for name in ("data", "base_files", "initial_weights"))
    return _known(data, files, start if run.phase == "phase1" else _base_of(workspace, start))


def _base_of(workspace: Workspace, start: Any) -> Any:
    """The base's weights from which phase 1 made `start`; None where models/phase1 is another by now."""
    card = workspace.model("phase1") / MODEL_CARD
    content = read_left(card, _CARD_AGAIN) if card.is_file() else {}
    return content.get(TRAINED_WITH, {}).get("base_weights") if content.get("sha256") == start else None


def _known(data: Any, files: Any, weights: Any) -> dict[str, str]:
    digests = {"data": data, "base_files": files, "base_weights": weights}
    return {name: digest for name, digest in digests.items() if isinstance(digest, str)}


def _data(workspace: Workspace) -> str | None:
    """A digest of all features, by the SHA-256 of their files; None before prepare."""
    features = workspace.prepared / FEATURES
    if not features.is_file():
        return None
    digests = read_left(features, PREPARE_AGAIN)
    return sha256_json([digests[name] for split in SPLITS for name in sorted(digests) if name.startswith(f"{split}.")])


@once_a_look
def code_digest() -> str:
    """Of the sources that shape the weights."""
    places = [_PACKAGE / name for name in SOURCES]
    files = [file for place in places for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
    return sha256_json({file.relative_to(_PACKAGE).as_posix(): sha256_file(file) for file in files})


def _start(workspace: Workspace, phase: PhaseName) -> dict[str, Any] | None:
    """What a phase starts from, as the stages before it recorded it; None where they have not."""
    base, card = prepared_base(workspace), workspace.model("phase1") / MODEL_CARD
    if base is None or (phase == "phase2" and not card.is_file()):
        return None
    network = {"base_files": sha256_json(base["files"])} if "files" in base else {}
    if phase == "phase1":
        return {"initial_weights": base["gpt"]["sha256"], **network}
    before = read_left(card, _CARD_AGAIN, lambda content: (content["sha256"], content["last_step"]))
    # its last step is where the steps, and with them all random draws, go on
    return {"initial_weights": before["sha256"], "start_step": before["last_step"], **network}


def _only_stops(key: str, settings: dict[str, Any]) -> bool:
    """Whether a setting only says when the run ends. A cosine schedule is stretched over the epochs."""
    section, _, name = key.rpartition(".")
    if name == "epochs":
        return bool(settings[f"{section}.schedule"] == "constant")
    return name in STOPPING_RULES
