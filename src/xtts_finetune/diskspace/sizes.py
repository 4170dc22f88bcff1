"""Bytes of a state and of its weights: as measured on one that lies here, else by the network's shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import EMA, MANIFEST, WEIGHTS, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.prepared_base import prepared_base

# Bytes of optimizer.safetensors, by `optim`, for each parameter of XTTS v2; mini, of smaller tensors, takes 2.07 in
# 8 bits: a byte for each of two moments, a scale for every 256, headers (tests/training/test_snapshot.py measures it).
OPTIMIZER_BYTES_PER_PARAMETER = {"adamw": 8.0, "adamw8bit": 2.04}
PUBLISHED_PARAMETERS = 441_018_563  # of XTTS v2's GPT
WEIGHT_BYTES = 4  # of a parameter: weights are kept in fp32 whatever the precision of training
Shapes = Mapping[str, Sequence[int]]  # of a network's tensors, by name


@dataclass(frozen=True)
class Sizes:
    """Bytes of one resumable state, and of the weights that are a part of it."""

    state: int
    weights: int


def measure(workspace: Workspace, phase: PhaseName, params: Params, shapes: Shapes | None = None) -> Sizes | None:
    """Of the phase's newest state, if it is of this base and optimiser; else by the base's number of parameters.

    None before `prepare` has opened this base, unless it is the published one: nothing is known yet.
    """
    parameters = trained_parameters(workspace, params, phase, shapes)
    if parameters is None:
        return None
    settings = params.phase(phase)
    ema = 0 if settings.ema is None else WEIGHT_BYTES
    state = parameters * (WEIGHT_BYTES + ema + OPTIMIZER_BYTES_PER_PARAMETER[settings.optim])
    for folder in (workspace.work(phase), workspace.checkpoints(phase)):
        for manifest in sorted(folder.glob(f"step-*/{MANIFEST}"), reverse=True):
            sizes = _described(manifest, bool(ema))
            # another optimiser's state is half or twice as large; names and shapes add 5 % to a small model's
            if sizes and 0.9 < sizes.state / state < 1.2:
                return sizes
    return Sizes(int(state), parameters * WEIGHT_BYTES)


def trained_parameters(
    workspace: Workspace, params: Params, phase: PhaseName, shapes: Shapes | None = None
) -> int | None:
    """How many a phase trains; None where that is not known yet: before `prepare`, or where parts are frozen."""
    trained = params.phase(phase).trained
    if trained.is_all:
        return all_parameters(workspace, params.base, shapes)
    info = prepared_base(workspace, params.base)
    known = shapes or (info["gpt"].get("shapes") if info else None)
    return trained.count(known) if known else None


def all_parameters(workspace: Workspace, base: str, shapes: Shapes | None = None) -> int | None:
    """Of these shapes, else of the base as `prepare` opened it; of the published one also before."""
    if shapes:
        return sum(map(prod, shapes.values()))
    info = prepared_base(workspace, base)
    if info is None:
        return PUBLISHED_PARAMETERS if base == "xtts_v2" else None
    parameters: int | None = info["gpt"].get("parameters")
    return parameters


def _described(manifest: Path, has_ema: bool) -> Sizes | None:
    """What a manifest says; None if it is damaged, has just been deleted by the run, or has an EMA and should not."""
    try:
        files = {name: int(file["bytes"]) for name, file in read_json(manifest)["files"].items()}
        return Sizes(sum(files.values()), files[WEIGHTS]) if (EMA in files) == has_ema else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
