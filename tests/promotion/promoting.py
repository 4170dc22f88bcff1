"""Versions to be promoted, and the commands as they are typed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import yaml
from making.params import ParamsFile

from xtts_finetune.core.layout import BUNDLE_BASE_FILES, MODEL_CARD, REFERENCE, SETTINGS, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.promotion.command import Request, history_lines, promote_lines, rollback_lines
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.promotions import Entry, Log
from xtts_finetune.tracking.registry import EVAL_TAG, find_champion, register_best

MODEL = "xtts-finetune"


@dataclass(frozen=True)
class Team:
    """Of one checkout."""

    workspace: Workspace

    @cached_property
    def store(self) -> TrackingStore:
        return open_store(self.workspace, load_params(self.workspace.params).tracking)

    def register(self, mel_ce: float, text_ce: float = 3.0, split: str | None = "a", run_id: str | None = None) -> int:
        """A version with these figures, on the eval split of that name; of a run of its own, or of this one."""
        model = self.workspace.root / "exported"
        model.mkdir(exist_ok=True)
        weights = model / "model.safetensors"
        weights.unlink(missing_ok=True)  # what is written to is another version's, too
        content = (f"{mel_ce} {text_ce} {split} ".encode() * 20_000)[:140_000]
        weights.write_bytes(content)
        for name in (MODEL_CARD, REFERENCE, SETTINGS, *BUNDLE_BASE_FILES):
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_text("{}", encoding="utf-8")
        run = run_id or self.store.client.create_run(self.store.experiment_id).info.run_id
        tags = {"phase": "phase2", "step": "9"} | ({EVAL_TAG: split} if split else {})
        figures = {"eval/mel_ce": mel_ce, "eval/text_ce": text_ce}
        digest = hashlib.sha256(content).hexdigest()
        return register_best(self.store, run, MODEL, model, SERVING_CODE, digest, tags, figures).version

    def promote(self, version: int | None = None, force: bool = False, why: str = "") -> str:
        return "\n".join(promote_lines(self.workspace, Request(version and str(version), force, why)))

    def rollback(self, why: str = "") -> str:
        return "\n".join(rollback_lines(self.workspace, why))

    def history(self, verify: bool = False) -> str:
        return "\n".join(history_lines(self.workspace, verify))

    @property
    def champion(self) -> int:
        version = find_champion(self.store, MODEL)
        assert version
        return version.version

    @property
    def entries(self) -> list[Entry]:
        return Log.read(self.workspace.promotions).entries


def change_params(team: Team, change: Callable[[ParamsFile], None]) -> None:
    params = yaml.safe_load(team.workspace.params.read_text(encoding="utf-8"))
    change(params)
    team.workspace.params.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
