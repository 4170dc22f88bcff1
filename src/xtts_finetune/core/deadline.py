"""When a run is to stop, though it is not at its end: told from `xtts-finetune repro --for` to the stages it starts."""

import os
import re
import time

from xtts_finetune.core.errors import Problem, UserError

UNTIL = "XTTS_FINETUNE_UNTIL"  # seconds since 1970, for the stages
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def seconds_of(duration: str) -> float:
    """What `6h`, `1h30m`, `90m`, `1.5h` or `2d` is in seconds.

    Raises:
        ValueError: it is none of these, or nothing.
    """
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?[dhms])+", duration):
        raise ValueError(f"{duration!r} is no time: write it as 6h, 90m or 1h30m")
    seconds = sum(float(count) * _UNITS[unit] for count, unit in re.findall(r"([0-9.]+)([dhms])", duration))
    if seconds == 0:
        raise ValueError("no time at all is given: write it as 6h, 90m or 1h30m")
    return seconds


def deadline() -> float | None:
    """Seconds since 1970; None: there is none.

    Raises:
        UserError: the environment's is no number.
    """
    told = os.environ.get(UNTIL)
    if not told:
        return None
    try:
        return float(told)
    except ValueError:
        problem = Problem(UNTIL, f"is {told!r}, no number of seconds since 1970", f"unset {UNTIL}")
        raise UserError("the environment is wrong", [problem]) from None


def time_is_up() -> bool:
    """Raises UserError as `deadline`."""
    until = deadline()
    return until is not None and time.time() >= until
