"""lineage.json: where a model comes from, for programs. docs/cards.md says what each field means.

What is not known is null. A file of a version that somebody else registered is read as strictly as params.yaml, but for
fields of later versions, which are kept.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from xtts_finetune.cards.consent import Consent
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import write_json

FORMAT = 1
Interval = tuple[float, float]


class Written(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


def _having(*names: str) -> AfterValidator:
    def check(counts: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in counts]:
            raise ValueError(f"lacks {', '.join(missing)}")
        return counts

    return AfterValidator(check)


class Model(Written):
    """Which weights it is about."""

    phase: str
    step: int | None
    best_weights: str  # raw or ema
    sha256: str
    trained_sha256: str | None = None  # of what was trained of them, where the rest was put beside it


class Base(Written):
    """What the model was fine-tuned from."""

    name: str  # as params.yaml had it
    sha256: str | None = None
    licence: str | None = None


class Figures(Written):
    """Of one model, on the eval split, in nats per token."""

    mel_ce: float | None
    text_ce: float | None
    mel_ce_interval: Interval | None = None  # 95 %, bootstrap over clips
    text_ce_interval: Interval | None = None
    clips: int | None = None


class Run(Written):
    """A unit of work: what identifies it here, and in MLflow."""

    key: str
    trajectory: dict[str, Any] | None = None  # of a phase: all that shaped its weights
    code: str | None = None  # digest of the sources that did
    mlflow_run_id: str | None = None


class Stage(Written):
    """What dvc.lock says of a stage: MD5 of what it read and left, and its parameters."""

    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, Any]


class Data(Written):
    """The recordings, in numbers."""

    clips: Annotated[dict[str, int], _having("read", "rejected", "train", "eval")]  # and accepted
    hours: Annotated[dict[str, float], _having("train", "eval")]
    languages: dict[str, int]  # clips of each
    speakers: int
    rejected_by_kind: dict[str, int]
    split_digest: str
    consent: Consent | None


class Hardware(Written):
    device: str  # that it was measured on
    cores: int
    memory_bytes: int


class Lineage(Written):
    """Where a model comes from."""

    format: int = FORMAT
    model: Model
    base: Base
    language: str | None = None
    seed: int | None = None
    git_commit: str | None = None  # this and the next five: as it was evaluated
    git_dirty: bool | None = None
    params: dict[str, Any] | None = None
    requirements_sha256: str | None = None
    hardware: Hardware | None = None
    software: dict[str, str | None] | None = None  # python, platform, packages: versions
    dvc: dict[str, Stage | None] | None = None
    runs: dict[str, Run | None] = {}
    figures: dict[str, Figures] = {}
    data: Data | None = None

    @classmethod
    def read(cls, file: Path, sha256: str) -> Self:
        """Of a bundle.

        Args:
            sha256: that its weights must have.

        Raises:
            UserError: it is damaged, or another model's.
        """
        try:
            found = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            what = f"cannot be read: {'.'.join(map(str, first['loc']))} {first['msg']}"
        else:
            if found.model.sha256 == sha256:
                return found
            what = f"is of another model, whose weights are {found.model.sha256[:12]}, not {sha256[:12]}"
        raise UserError("the model's papers cannot be used", [Problem(str(file), what, "choose another model")])

    def write(self, file: Path) -> None:
        write_json(file, self.model_dump(mode="json"))
