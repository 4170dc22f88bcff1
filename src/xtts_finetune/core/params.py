"""params.yaml as strict types: unknown keys, wrong types and cross-field mistakes, all in one message.

No field has a default: everything that shapes a result stands in params.yaml, where DVC sees it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.constants import CODE_STRIDE, MAX_AUDIO_CODES, MAX_TEXT_TOKENS, SAMPLE_RATE, Language
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params_mistakes import Mistakes
from xtts_finetune.core.phase_params import Fraction, Name, PhaseParams, Positive, Strict
from xtts_finetune.core.yamlfile import read_yaml

_TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_NOT_IN_MODEL_NAMES = "/:.%\"'"
_LONGEST_MODEL_NAME = 200  # characters


def _as_mlflow_takes_it(name: str) -> str:
    """MLflow's rule for models, which it would apply after the training."""
    if not name.strip() or any(character in name for character in _NOT_IN_MODEL_NAMES):
        raise ValueError(f"MLflow takes no blank name, and none with any of {' '.join(_NOT_IN_MODEL_NAMES)}")
    if not name.isprintable() or name != name.strip() or len(name) > _LONGEST_MODEL_NAME:
        raise ValueError(
            f"has more than {_LONGEST_MODEL_NAME} characters, a line end or the like, or a blank before or after it"
        )
    return name


def _as_an_address(uri: str) -> str:
    """Of a server or a database. Without its scheme MLflow would take 127.0.0.1:5000 for a folder."""
    scheme, colon, rest = uri.partition("://")
    if not colon or not rest or scheme.partition("+")[0] not in _TRACKING_SCHEMES:
        raise ValueError("is no address of an MLflow server, as http://127.0.0.1:5000 is one")
    return uri


def as_a_meeting_place(endpoint: str) -> str:
    """The endpoint; raises ValueError where it is no host:port."""
    host_and_port = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d+)", endpoint)
    if not host_and_port or not _is_name(host_and_port[1]) or not 0 < int(host_and_port[2]) < 2**16:
        raise ValueError("is no host:port, as gpu-1:29400 is one")
    return endpoint


def _is_name(host: str) -> bool:
    """Whether it can be looked up: no part of it is empty or too long."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _as_a_folder(base: str) -> str:
    """Of base/, or mini. What an alias in a registry names can change, and DVC would not see it."""
    if base.startswith("models:"):
        raise ValueError("is a registered model, which has to lie in base/, where DVC sees which it is")
    return base


class PrepareParams(Strict):
    """How recordings become a data set."""

    language: Language  # of clips whose metadata names none, e.g. en
    eval_fraction: Fraction  # eval_count = int(eval_fraction × accepted clips)
    min_seconds: Positive
    max_seconds: Positive
    max_text_tokens: PositiveInt  # BPE tokens, language tag included
    min_rms_dbfs: Annotated[float, Field(lt=0)]  # quieter clips are silence
    max_clipped_fraction: Fraction  # of samples at full scale

    @model_validator(mode="after")
    def _limits_agree(self) -> "PrepareParams":
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} must be below max_seconds {self.max_seconds}")
        longest = (MAX_AUDIO_CODES - 1) * CODE_STRIDE / SAMPLE_RATE  # START and STOPs have four places beside them
        if self.max_seconds > longest:
            raise ValueError(f"max_seconds {self.max_seconds} is above what the model can hold, {longest:.1f} s")
        if self.max_text_tokens > MAX_TEXT_TOKENS:
            raise ValueError(f"max_text_tokens {self.max_text_tokens} is above the model's {MAX_TEXT_TOKENS}")
        return self


class VocabularyParams(Strict):
    """What is added to the base's vocabulary."""

    extend: Name | None  # auto: what the transcripts need; or a file in data/, of characters and pieces, a line each
    pieces: NonNegativeInt  # of words, learned on the transcripts, beside the characters; with auto alone

    @model_validator(mode="after")
    def _only_auto_learns(self) -> "VocabularyParams":
        if self.pieces and self.extend != "auto":
            raise ValueError(f"pieces {self.pieces} are learned with extend: auto alone, not with {self.extend}")
        return self


class CheckpointsParams(Strict):
    """What is kept while a phase runs; changes no result."""

    save_every_steps: PositiveInt
    keep_last: PositiveInt  # resumable states, beside the best


class LaunchParams(Strict):
    """In how many processes a phase trains; changes no result but by rounding, and dropout's draws."""

    processes: PositiveInt  # on each machine: one for each of its GPUs
    nodes: PositiveInt  # machines at the most; on all but the first: xtts-finetune join
    rendezvous: Annotated[str, AfterValidator(as_a_meeting_place)] | None  # host:port of the first machine


class EvaluateParams(Strict):
    """What is spoken with each model for the listener."""

    sentences: Annotated[list[Name], Field(min_length=1)]
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    repetition_penalty: Positive
    max_seconds: Positive  # per sentence


class SamplesParams(Strict):
    """What a phase lets be heard while it trains; changes no result."""

    every_evaluations: PositiveInt | None  # at the start, and at each so-many-th evaluation behind it; null: never


class RegistryParams(Strict):
    model_name: Annotated[str, AfterValidator(_as_mlflow_takes_it)]
    weights: Literal["whole", "trained"]  # trained: without what was frozen, so that it needs the base where it speaks


LEAST_SENTENCES = 8  # of fewer an interval says little


def _enough(sentences: int) -> int:
    if sentences and sentences < LEAST_SENTENCES:
        raise ValueError(f"must be 0, or {LEAST_SENTENCES} at the least: of fewer nothing can be told")
    return sentences


class PromotionParams(Strict):
    """What a version must show to become champion; changes no result."""

    mel_ce_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # nats per token below the champion's
    text_ce_tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # nats per token that it may be above
    sentences: Annotated[int, AfterValidator(_enough)]  # of the eval split, said to be measured; 0: neither is heard
    recogniser: Name | None  # a folder with a speech recogniser, for other languages than English


class TrackingParams(Strict):
    """Where metrics go; changes no result."""

    experiment: Name
    uri: (
        Annotated[str, AfterValidator(_as_an_address)] | None
    )  # an MLflow server; null: mlruns/mlflow.db in this workspace
    log_every_steps: PositiveInt  # how often the figures of the steps taken are read from the device
    flush_every_steps: PositiveInt


class NotifyParams(Strict):
    """Whom to tell; changes no result."""

    command: Name | None  # run when a stage stops, all is done, a target is reached or the disk is low; null: nobody


class Params(Strict):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]  # as torch takes it
    base: Annotated[Name, AfterValidator(_as_a_folder)]  # mini, xtts_v2, or a folder: docs/bases.md
    prepare: PrepareParams
    vocabulary: VocabularyParams
    train_phase1: PhaseParams
    train_phase2: PhaseParams
    checkpoints: CheckpointsParams
    launch: LaunchParams
    evaluate: EvaluateParams
    samples: SamplesParams
    registry: RegistryParams
    promotion: PromotionParams
    tracking: TrackingParams
    notify: NotifyParams

    @model_validator(mode="after")
    def _mini_lacks_nothing(self) -> "Params":
        if self.base == "mini" and self.vocabulary.extend is not None:
            learned = "base mini, whose vocabulary is learned on the transcripts anyway"
            raise ValueError(f"vocabulary.extend {self.vocabulary.extend} is not for {learned}")
        return self

    @model_validator(mode="after")
    def _every_process_has_work(self) -> "Params":
        processes = self.launch.processes * self.launch.nodes
        for name in PHASES:
            if self.phase(name).batch_size < processes:
                batch = f"train_{name}.batch_size {self.phase(name).batch_size}"
                raise ValueError(f"launch.processes × launch.nodes, {processes}, must not be above {batch}")
        return self

    @model_validator(mode="after")
    def _phase2_can_go_on(self) -> "Params":
        """What phase 2 freezes must be the base's: else its weights were only whole with phase 1's beside them."""
        first, second = self.train_phase1, self.train_phase2
        if second.trained.is_all or first.trained == second.trained:
            return self
        raise ValueError(
            "train_phase2 freezes what train_phase1 trained: "
            "give both the same method (train_only; lora but for its dropout), or train all in phase 2"
        )

    def phase(self, name: PhaseName) -> PhaseParams:
        return self.train_phase1 if name == "phase1" else self.train_phase2


def load_params(path: Path, base: str | None = None) -> Params:
    """Read and check params.yaml.

    Args:
        base: stands for the file's own.

    Raises:
        UserError: the file is missing, not YAML, or has wrong keys or values; every problem is named.
    """
    title = f"{path.name} cannot be used"
    try:
        raw = read_yaml(path, title)
    except (FileNotFoundError, NotADirectoryError):
        remedy = "run this in the project's root, or copy a preset: cp presets/xtts_v2.yaml params.yaml"
        root = next((each for each in path.absolute().parents[1:] if (each / "dvc.yaml").is_file()), None)
        if path == Workspace.here().params and root and not Path("dvc.yaml").is_file():
            remedy = f"this is a folder of a project: cd {quoted(root)}"
        if Workspace.here().params.exists():  # which that would overwrite: it is another file that was asked for
            remedy = "name a file that is there, as presets/xtts_v2.yaml is one"
        raise UserError(title, [Problem(str(path), "does not exist", remedy)]) from None
    try:
        given = {} if raw is None else raw
        return Params.model_validate({**given, "base": base} if base and isinstance(given, dict) else given)
    except ValidationError as error:
        raise UserError(title, Mistakes(path, Params).problems(error)) from None
