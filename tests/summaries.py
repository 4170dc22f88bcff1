"""What DONE says of a phase that ended."""

from typing import Any


def summary(step: int = 200, **figures: Any) -> dict[str, Any]:
    return {
        "figures": {"step": step, "last_step": step, "stopped": "epochs done", "eval": {"mel_ce": 3.5}, **figures},
        "curve": "",
    }
