"""What is registered of the best model: a folder that speaks by itself."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from xtts_finetune.cards.gathering import of_evaluation
from xtts_finetune.cards.lineage import Model
from xtts_finetune.core.files import link_or_copy, read_json, scratch_folder, sha256_file, write_json
from xtts_finetune.core.layout import (
    BASE_INFO,
    BUNDLE_BASE,
    CODEC,
    CONFIG,
    MEL_STATS,
    MODEL_CARD,
    NEW_ROWS,
    REFERENCE,
    SETTINGS,
    VOCABULARY,
    VOCODER,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import Params
from xtts_finetune.model.base import Base
from xtts_finetune.model.header import Header
from xtts_finetune.stages.papers import write_papers
from xtts_finetune.tracking.outbox import TRAINED


@dataclass(frozen=True)
class Bundle:
    """A phase's model as it is registered."""

    workspace: Workspace
    params: Params
    model: Path  # the folder of its weights and their card

    @property
    def card(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.model / MODEL_CARD)
        return content

    def fill(self, folder: Path, evaluation: Mapping[str, Any], key: str) -> None:
        """All that the model needs to speak, as links: no byte is copied; and what it says of itself.

        Args:
            evaluation: what reports/evaluation.json says.
            key: of the evaluation's run.
        """
        prepared, base = self.workspace.prepared, Base.prepared(self.workspace)
        (folder / BUNDLE_BASE).mkdir()
        for file in (WEIGHTS, MODEL_CARD):
            link_or_copy(self.model / file, folder / file)
        sound = VOCODER if base.info["vocoder"] == "hifigan" else CODEC
        rows = [NEW_ROWS] if (prepared / "base" / NEW_ROWS).exists() else []
        for file in (BASE_INFO, CONFIG, VOCABULARY, MEL_STATS, sound, *rows):
            link_or_copy(prepared / "base" / file, folder / BUNDLE_BASE / file)
        shutil.copyfile(prepared / REFERENCE, folder / REFERENCE)
        write_json(folder / SETTINGS, self.params.evaluate.model_dump())
        lineage = of_evaluation(self.workspace, self.params, self._as_registered, evaluation, key)
        write_papers(self.workspace, self.params, lineage, folder)

    @property
    def _as_registered(self) -> Model:
        card = self.card
        return Model(
            phase=card["phase"],
            step=card["step"],
            best_weights=card.get("best_weights", "raw"),  # older cards do not say
            sha256=card["sha256"],
            trained_sha256=card.get(TRAINED),
        )


@contextmanager
def bundle_of(workspace: Workspace, params: Params, phase: PhaseName) -> Iterator[Bundle]:
    """The best of a phase to be registered: with what it was trained beside, unless params.yaml wants it alone."""
    model = workspace.model(phase)
    weights, own = model / WEIGHTS, Bundle(workspace, params, model)
    if params.registry.weights == "trained" or Header.of_file(weights) is None:
        yield own
        return
    with scratch_folder(workspace.whole_weights) as folder:
        save_file(Base.prepared(workspace).gpt(weights).state_dict(), folder / WEIGHTS)
        card = {**own.card, "sha256": sha256_file(folder / WEIGHTS), TRAINED: own.card["sha256"]}
        write_json(folder / MODEL_CARD, card)
        yield Bundle(workspace, params, folder)
