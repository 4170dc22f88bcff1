"""What `evaluate` found of a workspace's models."""

from typing import Any

EVALUATION: dict[str, Any] = {
    **{name: {"mel_ce": 4.25, "text_ce": 3.5} for name in ("base", "phase1", "phase2")},
    "intervals": {
        "base": {"clips": 1, "mel_ce": None, "text_ce": None},
        **{name: {"clips": 3, "mel_ce": (4.125, 4.375), "text_ce": (3.25, 3.75)} for name in ("phase1", "phase2")},
    },
}
KEY = "0123456789abcdef"  # of its run
