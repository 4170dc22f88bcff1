"""`xtts-finetune plan`: what a training will need of memory, disk and time, before it begins."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from xtts_finetune.core.disk import shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.diskspace.ahead import unfinished
from xtts_finetune.diskspace.budget import Budget
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.planning.choices import Choices
from xtts_finetune.planning.device import SPARE, Device
from xtts_finetune.planning.duration import duration_of, measured_rate
from xtts_finetune.planning.memory import Memory
from xtts_finetune.planning.offer import Offer, offered
from xtts_finetune.planning.subject import Subject
from xtts_finetune.planning.ways import METHOD, Way, clips_a_step, lines_of, lines_to_paste

# What of a phase its memory does not depend on: phases that differ in nothing else are planned together.
_NOT_IN_MEMORY = {
    "epochs", "lr", "schedule", "warmup_steps", "weight_decay", "grad_clip", "mask_prompt", "target_mel_ce",
    "patience", "stop_when_overfitting", "evaluate_every_steps",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        vram: bytes of a GPU that need not be here; None: of what is here.
        tokens_per_second: how fast steps are; None: as measured, if they were.
    """

    params: Params
    vram: int | None
    tokens_per_second: float | None


def plan_lines(workspace: Workspace, request: Request) -> Iterator[str]:
    """The plan of both phases, for a reader.

    Raises:
        UserError: the base's files, DVC's or what `prepare` left cannot be used.
    """
    params = request.params
    subject = Subject.of(workspace, params, request.vram)
    yield from _subject_lines(subject)
    pasted, rate = params, _rate(subject, request)
    for phases in _alike(params):
        choices = subject.choices(phases[0])
        yield ""
        yield from _own_lines(" and ".join(phases), choices)
        yield from _disk_and_time_lines(subject, phases, rate)
        yield ""
        yield from table_lines(choices)
        offer = offered(pasted, choices, phases)
        yield from recommended_lines(offer, choices, phases)
        pasted = offer.params if offer else pasted


def less_lines(workspace: Workspace, name: PhaseName) -> Iterator[str]:
    """Of a phase that did not fit: the ways that need less than it does, as `plan_lines` shows them.

    Raises:
        UserError: as `plan_lines`; or params.yaml cannot be used.
    """
    params = load_params(workspace.params)
    choices = Subject.of(workspace, params, None).choices(name)
    device, needed = choices.device, choices.device.needed(choices.own[1])
    less = replace(choices, device=replace(device, bytes=min(device.bytes, needed - 1)))
    yield f"{name} as it is: {_gib(needed)}, with all that is to lie there"
    yield from table_lines(less)
    yield from recommended_lines(offered(params, less, (name,)), less, (name,))


def _subject_lines(subject: Subject) -> Iterator[str]:
    clips, device = subject.clips, subject.device
    yield f"base       {subject.params.base}: {subject.network.source}"
    yield f"clips      {clips.train.source}"
    if clips.outdated:
        yield f"           not those in prepared/, which {clips.outdated}"
    yield f"device     {device.name}, {_gib(device.bytes)}"


def _alike(params: Params) -> list[tuple[PhaseName, ...]]:
    """Phases whose memory is the same, together."""
    first, second = (_in_memory(params.phase(name)) for name in PHASES)
    return [PHASES] if first == second else [(name,) for name in PHASES]


def _in_memory(phase: PhaseParams) -> dict[str, Any]:
    """What its memory depends on: of dropout, whether there is one, and so a mask."""
    return phase.model_dump(exclude=_NOT_IN_MEMORY) | {"dropout": phase.dropout > 0}


def _own_lines(title: str, choices: Choices) -> Iterator[str]:
    phase, device = choices.phase, choices.device
    training, memory = choices.own
    trained, frozen = training.parameters
    yield f"{title}: {_in_words(Way.of(phase))}, batches of {phase.batch_size}, {_a_step(phase)}"
    yield f"    parameters trained, frozen{trained:>26,}{frozen:>17,}"
    yield from (_row(label, size) for label, size in _parts(phase, memory) if round(size / 2**20))
    yield _row(f"peak, with {SPARE:.0%} to spare and what else lies there", device.needed(memory))
    yield f"    {'fits' if device.fits(memory) else 'DOES NOT FIT'} in {_gib(device.bytes)}"


def _parts(phase: PhaseParams, memory: Memory) -> Iterator[tuple[str, int]]:
    yield "weights, in fp32", memory.weights
    yield "their copies in bf16", memory.copies
    yield "gradients", memory.gradients
    yield f"moments ({phase.optim})", memory.moments
    if memory.ema:
        yield "moving average of what is trained (ema)", memory.ema
    yield f"activations of a batch of {phase.batch_size}", memory.activations
    yield "all tensors at the peak of a step", memory.step
    yield "all tensors at the peak of an evaluation", memory.evaluation
    yield "CUDA graphs, where there is room", memory.graphs


def _row(label: str, size: int) -> str:
    return f"    {label:<58}{_gib(size):>11}"


def _gib(size: int) -> str:
    """Bytes in the units that memory is sold in."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _in_words(way: Way) -> str:
    checkpointing = "gradient checkpointing" if way.gradient_checkpointing else "no checkpointing"
    return f"{way.method}, {way.precision}, {way.optim}, {checkpointing}"


def _a_step(phase: PhaseParams) -> str:
    return f"{clips_a_step(phase)} clips a step"


def _disk_and_time_lines(
    subject: Subject, phases: tuple[PhaseName, ...], rate: tuple[float, str] | None
) -> Iterator[str]:
    budget = Budget(subject.workspace, subject.params, Cache(subject.workspace), subject.network.shapes)
    for name in phases:
        yield f"{name}: {_disk(budget, name)}"
        yield f"{name}: {_time(subject, name, rate)}"


def _rate(subject: Subject, request: Request) -> tuple[float, str] | None:
    """Tokens a second, and how they are known. Of a GPU that need not be here, what was done here tells nothing."""
    if request.tokens_per_second is not None:
        return request.tokens_per_second, "stated"
    measured = measured_rate(subject.workspace, subject.params) if request.vram is None else None
    return measured and (measured[0], f"measured in {measured[1]} here")


def _disk(budget: Budget, name: PhaseName) -> str:
    try:
        ahead = unfinished(budget.workspace, budget.params)
        demands = budget.peak(name, ahead[: ahead.index(name)] if name in ahead else [])
    except UserError as error:
        return f"disk at the peak not known: {error.title}"
    sums = [f"{shown(demand.needed)} of the {shown(demand.free)} free on {demand.disk}" for demand in demands]
    return f"disk at the peak {', '.join(sums)}"


def _time(subject: Subject, name: PhaseName, rate: tuple[float, str] | None) -> str:
    duration, count = duration_of(subject, name), subject.params.phase(name).epochs
    epochs = f"{count} epoch{'s' if count > 1 else ''}"
    if duration.steps is None:
        return f"{epochs}; how many steps is known when there are recordings in data/"
    steps = f"{'' if duration.is_exact else 'about '}{duration.steps:,} steps in {epochs}"
    if duration.tokens is None:
        return f"{steps}; hours are known when prepare has run"
    if rate is None:
        return f"{steps}; hours are known by a rate: --tokens-per-second, or, without --vram, one measured here"
    hours = duration.tokens / rate[0] / 3600
    return f"{steps}, {hours:.1f} h at {rate[0]:,.0f} tokens/s ({rate[1]}), evaluations and saves aside"


def table_lines(choices: Choices) -> Iterator[str]:
    """What every way needs, by the size of a batch."""
    columns = choices.sizes
    limit = _gib(choices.device.bytes)
    yield f"GiB needed by batch size; in brackets what does not fit in {limit}, blank what would need still more"
    yield f"    {'method':<8}{'precision':<11}{'checkpointing':<15}{'optim':<10}" + "".join(f"{n:>8}" for n in columns)
    for way, row in choices.table.items():
        saves = "yes" if way.gradient_checkpointing else "no"
        cells = [_cell(choices.device, row.get(size)) for size in columns]
        yield f"    {way.method:<8}{way.precision:<11}{saves:<15}{way.optim:<10}" + "".join(cells).rstrip()


def _cell(device: Device, memory: Memory | None) -> str:
    if memory is None:
        return f"{'':>8}"
    needed = f"{device.needed(memory) / 2**30:.2f}"
    return f"{needed:>8}" if device.fits(memory) else f"{f'({needed})':>8}"


def _nothing_fits_lines(choices: Choices) -> Iterator[str]:
    processes = choices.processes
    batches = f" in batches of {processes} clips or more, one for each process (launch)" if processes > 1 else ""
    fewer = ", and fewer processes can have smaller batches" if processes > 1 else ""
    yield f"nothing fits in {_gib(choices.device.bytes)}{batches}: shorter clips (prepare.max_seconds) need less{fewer}"


def recommended_lines(offer: Offer | None, choices: Choices, phases: tuple[PhaseName, ...]) -> Iterator[str]:
    """What is offered, as lines of params.yaml."""
    if offer is None:
        yield from _nothing_fits_lines(choices)
        return
    way, size = offer.way, offer.size
    yield f"recommended: {_in_words(way)}, batches of {size}; a step has {clips_a_step(choices.phase)} clips as before"
    yield f"in params.yaml, in {' and '.join(f'train_{name}' for name in phases)}:"
    yield from (f"  {line}" for line in lines_to_paste(way, choices.phase, size, choices.traces.other))
    for name in offer.beside:
        yield f"and in train_{name}, as phase 2 can only go on with the same (phase 1 is then trained anew):"
        yield from (f"  {line}" for line in lines_of(offer.params.phase(name), METHOD))
