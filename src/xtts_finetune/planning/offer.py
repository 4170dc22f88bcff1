"""Of what fits, what params.yaml takes: phases depend on each other and on `launch`."""

from dataclasses import dataclass

from pydantic import ValidationError

from xtts_finetune.core.layout import PHASES, PhaseName
from xtts_finetune.core.params import Params
from xtts_finetune.planning.choices import Choices, Traces
from xtts_finetune.planning.ways import METHOD, Way


@dataclass(frozen=True)
class Offer:
    """A way to train that params.yaml takes as it is pasted.

    Attributes:
        beside: the other phase, where it must train the same; of it nothing else changes.
        params: with all of it.
    """

    way: Way
    size: int
    beside: tuple[PhaseName, ...]
    params: Params


def offered(params: Params, choices: Choices, phases: tuple[PhaseName, ...]) -> Offer | None:
    """The quickest way for `phases` that fits and is taken: beside the other phase as it is, if there is one.

    Args:
        params: with what was offered before.
    """
    others = tuple(name for name in PHASES if name not in phases)
    for beside in ((), others):
        for way, size in choices.fitting:
            pasted = _pasted(params, choices.traces, (way, size), phases, beside)
            if pasted is not None:
                return Offer(way, size, beside, pasted)
    return None


def _pasted(
    params: Params,
    traces: Traces,
    offer: tuple[Way, int],
    phases: tuple[PhaseName, ...],
    beside: tuple[PhaseName, ...],
) -> Params | None:
    """What params.yaml then says; None: it is refused."""
    way, size = offer
    changed = {name: way.applied(params.phase(name), size, traces.other).model_dump() for name in phases}
    for name in beside:
        same = {key: changed[phases[0]][key] for key in METHOD}
        changed[name] = params.phase(name).model_dump() | same
    try:
        return Params.model_validate(params.model_dump() | {f"train_{name}": value for name, value in changed.items()})
    except ValidationError:
        return None
