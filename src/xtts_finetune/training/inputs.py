"""What a phase is trained on and from."""

from dataclasses import dataclass

import torch

from xtts_finetune.core.layout import PhaseName
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.model.header import Header
from xtts_finetune.model.xtts import GPT


@dataclass(frozen=True)
class Inputs:
    """What a phase is trained on and from."""

    name: PhaseName
    phase: PhaseParams
    seed: int
    gpt: GPT  # with the phase's initial weights, on its device; what is frozen has no gradients
    mel_stats: torch.Tensor  # (80,)
    train: FeatureReader
    eval: FeatureReader
    start_step: int  # the last step of the phase before
    header: Header | None = None  # of files with what is trained; None: it is all
