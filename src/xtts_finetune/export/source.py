"""A model that can be exported, and what its export is made from."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.cards.lineage import Figures, Lineage, Model
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import BASE_INFO, CODEC
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
    step: int | None  # None: not known
    best_weights: str  # raw; or ema, the moving average of what was trained
    base: str  # as params.yaml names it
    language: str
    sha256: str  # its weights must have
    figures: dict[str, float]  # FIGURES on the eval split, as far as they are known, in nats per token
    is_registered: bool  # then it was heard with the settings that its export is to speak with

    @property
    def model(self) -> Model:
        return Model(phase=self.phase, step=self.step, best_weights=self.best_weights, sha256=self.sha256)

    def completed(self, lineage: Lineage) -> Lineage:
        """With this model's own figures, where it has none."""
        if lineage.figures or not self.figures:
            return lineage
        own = Figures(mel_ce=self.figures.get("mel_ce"), text_ce=self.figures.get("text_ce"))
        return lineage.model_copy(update={"figures": {self.phase: own}})


@dataclass(frozen=True)
class Files:
    """All that an export is made from."""

    weights: Path
    base: Path  # prepared/base/, or a bundle's
    root: Path  # the workspace, where weights of the base itself lie
    reference: Path  # the voice, as of `Speaker`
    settings: EvaluateParams
    lineage: Lineage
    data_card: Path | None  # None: nobody described the recordings

    @property
    def vouched(self) -> list[Path]:
        """Those that base.json knows by their SHA-256, beside it in prepared/ or a bundle."""
        of_base = sorted(self.base.iterdir()) if self.base.is_dir() else []
        return [self.reference, *(file for file in of_base if file.name not in (BASE_INFO, CODEC))]  # no sound is made

    def seen(self) -> list[tuple[int, ...]]:
        """By which it is known later whether any of them was replaced."""
        return [_seen(file) for file in (self.weights, self.base / BASE_INFO, *self.vouched)]


@dataclass(frozen=True)
class Source:
    """A model that was found, before any of its large files is read."""

    origin: Origin
    has_vocoder: bool  # XTTS v2's
    bytes: int  # of a whole network's weights and the vocoder
    downloaded_bytes: int  # into work/; 0: the files are used where they are
    open: Callable[[], AbstractContextManager[Files]]
    doubts: tuple[str, ...] = ()  # what is not known of it, and what is taken in its place


@contextmanager
def in_place(files: Files, before: list[tuple[int, ...]]) -> Iterator[Files]:
    """Files where they lie: somebody may replace them meanwhile, or let them go.

    Args:
        before: how they were `seen` when they were found to be the right ones.

    Raises:
        UserError: somebody did.
    """
    try:
        yield files
    except FileNotFoundError:
        if files.seen() == before:
            raise
    if files.seen() != before:
        what = "was replaced, or let go, while it was read, or what it speaks with was"
        raise UserError(TITLE, [Problem(str(files.weights), what, "type this again, or choose another model")])


def _seen(file: Path) -> tuple[int, ...]:
    stat = file.stat() if file.is_file() else None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else ()
