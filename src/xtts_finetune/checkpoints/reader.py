"""What the store of a phase holds, for whoever only looks."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.stopping import ends_as
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.layout import MANIFEST, CheckpointKind, checkpoint_step
from xtts_finetune.core.phase_params import PhaseParams


class CheckpointReader:
    """The states and the best of one phase, in one folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def states(self) -> list[Checkpoint]:
        """The complete states, oldest first; by name and manifest, without reading the weights."""
        return self._complete("step")

    def latest(self, on_damage: Callable[[Checkpoint, str], None]) -> Checkpoint | None:
        """The newest state whose every byte verifies; `on_damage` hears of the ones passed over."""
        for checkpoint in reversed(self.states()):
            damage = checkpoint.damage()
            if damage is None:
                return checkpoint
            on_damage(checkpoint, damage)
        return None

    def bests(self) -> list[Checkpoint]:
        """The complete best weights, oldest first: of every state's time, and later ones that are replayed."""
        return self._complete("best")

    def best(self, step: int | None = None) -> Checkpoint | None:
        """The best weights of `step`, or the latest."""
        bests = [best for best in self.bests() if step in (None, best.step)]
        return bests[-1] if bests else None

    @property
    def done(self) -> bool:
        """Whether the phase is complete."""
        return summary_of(self.folder) is not None

    @property
    def summary(self) -> dict[str, Any]:
        """What `mark_done` was given, of a phase that is complete."""
        summary = summary_of(self.folder)
        assert summary is not None
        return summary

    def ended_by(
        self, rules: PhaseParams, parse: Callable[[str], Iterable[Mapping[str, Any]]]
    ) -> dict[str, Any] | None:
        """The summary of a phase that is complete, and would be by `rules`; None: there is something left to do.

        Args:
            parse: the rows of a curve's text.
        """
        summary = summary_of(self.folder)
        is_ended = summary is not None and ends_as(summary["figures"], parse(summary["curve"]), rules)
        return summary if is_ended else None

    def _complete(self, kind: CheckpointKind) -> list[Checkpoint]:
        steps = ((folder, checkpoint_step(folder.name, kind)) for folder in sorted(self.folder.glob(f"{kind}-*")))
        return [Checkpoint(folder, at) for folder, at in steps if at is not None and (folder / MANIFEST).is_file()]
