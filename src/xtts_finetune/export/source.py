"""A model that can be exported, and what its export is made from."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.params import EvaluateParams

TITLE = "nothing was exported"
FIGURES = ("mel_ce", "text_ce")
# What reading a damaged or foreign JSON file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Origin:
    """Which model it is."""

    title: str  # where it comes from, in words
    phase: str
    step: int
    base: str  # as params.yaml names it
    sha256: str  # its weights must have
    figures: dict[str, float]  # FIGURES on the eval split, as far as they are known, in nats per token


@dataclass(frozen=True)
class Files:
    """All that an export is made from."""

    weights: Path
    base: Path  # prepared/base/, or a bundle's
    root: Path  # the workspace, where weights of the base itself lie
    reference: Path  # the voice, as of `Speaker`
    settings: EvaluateParams


@dataclass(frozen=True)
class Source:
    """A model that was found, before any of its large files is read."""

    origin: Origin
    has_vocoder: bool  # XTTS v2's
    bytes: int  # of a whole network's weights and the vocoder
    downloaded_bytes: int  # into work/; 0: the files are used where they are
    open: Callable[[], AbstractContextManager[Files]]
