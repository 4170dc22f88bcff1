"""params.yaml for tests: the starter's or a preset's, with changes."""

from collections.abc import Iterable
from typing import Any

from making.project import PROJECT
from xtts_finetune.core.layout import PHASES, PhaseName
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.core.phase_params import PhaseParams

ParamsFile = dict[str, Any]  # params.yaml as it is written

# Of a training that takes tenths of a second, and has steps of several kinds.
TINY_PHASE = PhaseParams(
    method="full",
    train_only=None,
    lora=None,
    epochs=2,
    batch_size=2,
    batch_tokens=None,
    accumulate=2,
    optim="adamw",
    lr=1e-3,
    schedule="constant",
    warmup_steps=2,
    weight_decay=0.01,
    grad_clip=1.0,
    ema=None,
    precision="fp32",
    dropout=0.1,
    attention_dropout=0.0,
    gradient_checkpointing=False,
    mask_prompt=False,
    target_mel_ce=None,
    patience=None,
    stop_when_overfitting=False,
    evaluate_every_steps=None,
)

LORA: dict[str, Any] = {
    "method": "lora",
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "layers": ["c_attn", "c_proj", "c_fc"], "in_full": []},
}
PARTS: dict[str, Any] = {"train_only": ["gpt.h.0.mlp", "final_norm", "mel_head"]}


def starter(**changes: Any) -> Params:
    return changed(load_params(PROJECT / "params.yaml"), **changes)


def of_the_real_model(**changes: Any) -> Params:
    return changed(load_params(PROJECT / "presets" / "xtts_v2.yaml"), **changes)


def make_params(save_every_steps: int = 2, keep_last: int = 2, **changes: Any) -> Params:
    """Of the starter run, with TINY_PHASE and `changes` for both phases."""
    phase = {**TINY_PHASE.model_dump(), **changes}
    return starter(save_every_steps=save_every_steps, keep_last=keep_last, **phase)


def changed(
    params: Params,
    save_every_steps: int | None = None,
    keep_last: int | None = None,
    uri: str | None = None,
    phases: Iterable[PhaseName] = PHASES,
    **of_a_phase: Any,
) -> Params:
    """With what is given in the place of its own; what belongs to a phase, for all of `phases`."""
    given = {"save_every_steps": save_every_steps, "keep_last": keep_last}
    checkpoints = params.checkpoints.model_copy(update={key: value for key, value in given.items() if value})
    changes: dict[str, Any] = {"checkpoints": checkpoints}
    if uri:
        changes["tracking"] = params.tracking.model_copy(update={"uri": uri})
    for phase in phases:
        changes[f"train_{phase}"] = PhaseParams(**{**params.phase(phase).model_dump(), **of_a_phase})
    return params.model_copy(update=changes)


def be_quick(params: ParamsFile) -> None:
    """Few steps: 3 an epoch with 24 clips, of which 3 are for evaluation. Whatever the project's own params are."""
    params |= {"seed": 42, "base": "mini"}
    for section in ("train_phase1", "train_phase2"):
        params[section] |= {"epochs": 1, "batch_size": 8, "accumulate": 1, "warmup_steps": 0, "precision": "fp32"}
        params[section] |= {"optim": "adamw", "target_mel_ce": None, "patience": None}
    params["train_phase1"] |= {"epochs": 2, "lr": 1e-3, "schedule": "constant"}
    params["train_phase2"] |= {"lr": 3e-4, "schedule": "cosine"}
    params["checkpoints"] = {"save_every_steps": 2, "keep_last": 2}
    params["evaluate"] |= {"sentences": ["Welcome back!"], "max_seconds": 1.0}
    params["tracking"]["flush_every_steps"] = 2
