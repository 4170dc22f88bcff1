"""What a report says, whatever it is shown in: the terminal, JSON, Markdown or a page.

`status --json` is this as it stands; docs/report.schema.json describes it for programs.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from xtts_finetune.core.layout import PhaseName

FORMAT: Literal[1] = 1
Range = tuple[float, float]

State = Literal["nothing prepared", "prepared", "training", "stopped", "trained", "evaluated", "outdated"]
PhaseState = Literal["not started", "training", "stopped", "trained", "done", "in DVC's cache"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evaluation(Part):
    """Of a phase, on the whole eval split, in nats per token."""

    step: Annotated[int, Field(description="optimiser updates, counted from phase 1's first")]
    epoch: Annotated[float, Field(description="of the phase, that are done; whole ones where more is not known")]
    eval_mel_ce: float | None
    eval_text_ce: float | None
    eval_text_ce_weighted: Annotated[float | None, Field(description="× 0.01, as Coqui prints it")]
    eval_ema_mel_ce: Annotated[float | None, Field(description="of the weights' average, where there is one")]
    train_mel_ce: Annotated[float | None, Field(description="of train clips, as many and as long, measured alike")]
    from_start: Annotated[float | None, Field(description="change of eval Mel CE since the phase's first")]
    from_before: Annotated[float | None, Field(description="change of eval Mel CE since the evaluation before")]
    per_100_steps: Annotated[float | None, Field(description="the same, by the steps that really lie between")]


class Best(Part):
    """The evaluation with the lowest eval Mel CE."""

    step: int
    mel_ce: float
    text_ce: float | None
    text_ce_weighted: float | None
    weights: Literal["raw", "ema"]


class Prospect(Part):
    """What the evaluations tell of the phase's end; ranges hold the truth in four of five cases."""

    lines: Annotated[list[str], Field(description="in words")]
    levels_off: Annotated[
        Range | None, Field(description="Mel CE that the fit levels off at, before it rises where it does, and ±")
    ] = None
    never: Annotated[bool | None, Field(description="whether the target is out of reach at this rate")] = None
    steps_to_target: Annotated[Range | None, Field(description="null where it may never be reached")] = None
    seconds_to_target: Range | None = None
    best_at_end: Annotated[Range | None, Field(description="Mel CE, with the last of its epochs")] = None
    is_overfitting: bool = False


class Phase(Part):
    """Of the training run."""

    name: PhaseName
    state: PhaseState
    why: Annotated[str | None, Field(description="why it ended, or what its state means")]
    first_step: int | None
    step: Annotated[int | None, Field(description="how far it is")]
    last_step: Annotated[int | None, Field(description="with which its epochs end, where that is known")]
    resume_step: Annotated[int | None, Field(description="of the newest state, of a phase that has not ended")]
    target_mel_ce: float | None
    missing_mel_ce: Annotated[float | None, Field(description="from the best to the target; 0: it was reached")]
    best: Best | None
    evaluations: list[Evaluation]
    prospect: Prospect | None
    seconds_per_step: Annotated[float | None, Field(description="evaluations and saves included")]
    seconds_per_epoch: float | None
    seconds_left: Annotated[float | None, Field(description="to last_step")]
    steps_skipped: Annotated[int, Field(description="whose loss or gradient was not finite")]
    saves_skipped: Annotated[int, Field(description="states that had no room on the disk")]


class Data(Part):
    """The recordings, as prepare found them."""

    read: int
    accepted: int
    train: int | None
    eval: int | None
    hours_train: float | None
    hours_eval: float | None
    rejected: list[dict[str, str]]
    codebook_perplexity: float | None
    refused: Annotated[str | None, Field(description="why they cannot be trained on")]


class Way(Part):
    """Of making room."""

    command: str
    frees_bytes: int


class Disk(Part):
    """The file system of the checkout, and what this project holds wherever it is."""

    free_bytes: int
    held: Annotated[dict[str, int], Field(description="bytes by part; a file with several names counts once")]
    ways: list[Way]
    next_stage: Annotated[PhaseName | Literal["evaluate"] | None, Field(description="that has yet to run")]
    needed_bytes: Annotated[int | None, Field(description="of that, at its peak, still to be written")]
    missing_bytes: int
    full_disk: Annotated[str | None, Field(description="where they are missing")]


class Parked(Part):
    """A run that was moved aside, which goes on when its parameters come back."""

    phase: PhaseName
    key: str
    words: str
    bytes: int
    command: Annotated[str, Field(description="that lets it go")]


class Waiting(Part):
    """What MLflow has not got yet."""

    runs: int
    points: int
    models: int
    damaged: list[str]


class Next(Part):
    """Something to type now."""

    command: str
    why: str


class Queued(Part):
    """An experiment of DVC's queue that runs now."""

    name: Annotated[str | None, Field(description="null where DVC was killed, and its trainer was not")]
    stage: Annotated[str | None, Field(description="that it runs; null between two")]


class Report(Part):
    """Where a run stands."""

    format: Literal[1] = FORMAT
    at: Annotated[str, Field(description="when, ISO 8601")]
    state: State
    running: Annotated[
        str | None, Field(description="the stage that DVC runs now, or stores what it left; between two: dvc repro")
    ]
    queue: list[Queued]
    stopped: Annotated[str | None, Field(description="what the last stage said when it stopped")]
    mistakes: Annotated[str | None, Field(description="in params.yaml")]
    data: Data | None
    base: Annotated[Best | None, Field(description="the untrained base on the eval split")]
    phases: list[Phase]
    whose: Annotated[str | None, Field(description="whose figures these are")]
    target_mel_ce: dict[PhaseName, float | None]
    seconds_left: Annotated[float | None, Field(description="of training, in all phases, where that is known")]
    registered: Annotated[str, Field(description="which version of the model, in words")]
    version: Annotated[int | None, Field(description="that has this run's best, as far as is known")]
    settings: Annotated[dict[str, str], Field(description="the run's main parameters")]
    changed_since_commit: Annotated[list[str], Field(description="parameters, as train_phase2.lr 0.0003 → 0.0001")]
    changed_since_champion: Annotated[list[str] | None, Field(description="null where the champion's are not known")]
    disk: Disk
    parked: list[Parked]
    mlflow: Waiting
    next: list[Next]
    remarks: Annotated[list[str], Field(description="beside `next`, in words")]
