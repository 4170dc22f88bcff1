"""How long a phase takes: its steps, and hours where a rate is known."""

from dataclasses import dataclass
from statistics import median

import torch

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.checkpoints.parking import record_of
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import PHASES, SPLITS, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.prepared_base import prepared_base
from xtts_finetune.data.clips import read_metadata
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.planning.subject import Subject
from xtts_finetune.tracking.curve import read_rows
from xtts_finetune.training.inputs import Inputs
from xtts_finetune.training.packing import MEL_STOPS, TEXT_STOPS
from xtts_finetune.training.plan import Plan

RATE = "train/tokens_per_second"
WEIGHTS = "initial_weights"  # in a run's trajectory: the SHA-256 of those it starts from
NEWEST = 200  # steps that a measured rate is the median of


@dataclass(frozen=True)
class Duration:
    """Of a phase, if no stopping rule ends it earlier.

    Attributes:
        steps: optimiser steps; None: the recordings are not known.
        tokens: text tokens and audio codes of all its epochs; None: before `prepare`.
        is_exact: whether the clips are known, rather than the lines of metadata.csv.
    """

    steps: int | None
    tokens: int | None
    is_exact: bool


def duration_of(subject: Subject, name: PhaseName) -> Duration:
    """By the prepared clips, else by the lines of metadata.csv.

    Raises:
        UserError: what `prepare` left is damaged.
    """
    workspace, params, phase = subject.workspace, subject.params, subject.params.phase(name)
    if not subject.clips.are_prepared:
        clips = _clips_to_come(workspace, params)
        batches = None if clips is None else -(-clips // phase.batch_size)
        return Duration(None if batches is None else -(-batches // phase.accumulate) * phase.epochs, None, False)
    train, evaluated = (FeatureReader(workspace.prepared, split) for split in SPLITS)
    with torch.device("meta"):  # a plan asks for no more than the clips
        inputs = Inputs(name, phase, params.seed, subject.network.build(), torch.empty(0), train, evaluated, 0)
    tokens = int(train.n_codes.sum() + train.n_tokens.sum()) + (MEL_STOPS + TEXT_STOPS) * len(train)
    return Duration(Plan(inputs).steps, tokens * phase.epochs, True)


def _clips_to_come(workspace: Workspace, params: Params) -> int | None:
    """To train on, if `prepare` rejects none; None where metadata.csv is missing or cannot be read."""
    try:
        clips = len(read_metadata(workspace.data, params.prepare.language))
    except UserError:
        return None
    return clips - int(params.prepare.eval_fraction * clips)


def measured_rate(workspace: Workspace, params: Params) -> tuple[float, PhaseName] | None:
    """Tokens a second of the newest steps that were taken here from the same weights, and the phase they were of.

    None before `prepare` has opened the base of the parameters: what lies here is another's.
    """
    if prepared_base(workspace, params.base) is None:
        return None
    for name in reversed(PHASES):
        wanted, record = identity_of(workspace, params, name), record_of(workspace.work(name))
        if wanted is None or record is None or wanted.trajectory[WEIGHTS] != record.identity.trajectory.get(WEIGHTS):
            continue
        rates = [row[RATE] for row in read_rows(workspace.running_curve(name)) if RATE in row]
        if rates:
            return median(rates[-NEWEST:]), name
    return None
