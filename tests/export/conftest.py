"""A workspace with a trained base of XTTS v2's shape, as far as an export can tell."""

import shutil
from pathlib import Path

import pytest
import soundfile
import yaml
from making import workspaces
from making.params import make_params
from making.prepared import TEXT, list_features
from safetensors.torch import save_file
from torch import Tensor

from xtts_finetune.checkpoints.checkpoint import Contents
from xtts_finetune.checkpoints.identity import TRAINED_WITH, Identity, Record, identity_of, trained_with
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.digests import DIGESTS, digests_of
from xtts_finetune.core.files import link_tree, sha256_file, write_json
from xtts_finetune.core.layout import (
    BASE_INFO,
    CONFIG,
    MEL_STATS,
    MODEL_CARD,
    OPTIMIZER,
    REFERENCE,
    WEIGHTS,
    PhaseName,
    Workspace,
)
from xtts_finetune.core.params import load_params
from xtts_finetune.model.base import Base

BASE = "../base/small"


@pytest.fixture(scope="session")
def trained(imported: Workspace, clips: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Phase 1 is done, and phase 2 has best weights and a state on the way; to be read or copied."""
    import numpy as np

    workspace = workspaces.configured(tmp_path_factory.mktemp("export") / "my vöice")
    params = make_params().model_dump() | {"base": BASE}
    params["evaluate"] |= {"sentences": [TEXT], "max_seconds": 1.0}
    workspace.params.write_text(yaml.safe_dump(params), encoding="utf-8")
    workspace.prepared.mkdir()
    link_tree(imported.prepared / "base", workspace.prepared / "base")
    list_features(workspace)
    spoken = np.concatenate([soundfile.read(path, dtype="float32")[0] for path, _ in clips[:3]])
    soundfile.write(workspace.prepared / REFERENCE, spoken, SAMPLE_RATE, subtype="PCM_16")
    base = Base(workspace.prepared / "base", imported.root)
    vouched = {"files": {name: sha256_file(base.folder / name) for name in (CONFIG, MEL_STATS)}}
    write_json(base.folder / BASE_INFO, base.info | vouched | {DIGESTS: digests_of(workspace.prepared)})
    gpt = base.gpt()
    weights = {name: tensor + 0.001 for name, tensor in gpt.state_dict().items()}
    _export_best(workspace, weights)
    _save_states(workspace, weights)
    return workspace


def _identity(workspace: Workspace, phase: PhaseName) -> Identity:
    identity = identity_of(workspace, load_params(workspace.params), phase)
    assert identity
    return identity


def _export_best(workspace: Workspace, weights: dict[str, Tensor]) -> None:
    """Of phase 1, as `training.phases` does."""
    model = workspace.model("phase1")
    model.mkdir(parents=True)
    save_file(weights, model / WEIGHTS)
    figures = {"mel_ce": 4.25, "text_ce": 3.5, "text_ce_weighted": 0.035}
    digest = sha256_file(model / WEIGHTS)
    card = {"phase": "phase1", "base": BASE, "sha256": digest, "step": 201, "last_step": 210, "eval": figures}
    beside = trained_with(workspace, _identity(workspace, "phase1"))
    write_json(model / MODEL_CARD, {**card, TRAINED_WITH: beside, "params": {"seed": 1}})


def _save_states(workspace: Workspace, weights: dict[str, Tensor]) -> None:
    """Of phase 2, which is under way: a best, and a state after it."""
    record = Record(_identity(workspace, "phase2"))
    best = {"best_step": 220, "best_mel_ce": 4.125, "best_text_ce": 3.25}
    for step in (220, 230):
        contents = Contents(
            write_weights=lambda folder, step=step: save_file(
                {name: tensor + step / 1e6 for name, tensor in weights.items()}, folder / WEIGHTS
            ),
            write_rest=lambda folder: (folder / OPTIMIZER).write_bytes(b"moments" * 1000),
            size=0,
            state={**record.to_json(), "position": {"step": step, **best}},
        )
        CheckpointStore(workspace.work("phase2"), 2).save(step, contents, is_best=step == 220)


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy, whose files are links."""
    copy = Workspace(tmp_path / "my vöice")
    copy.root.mkdir()
    link_tree(trained.root, copy.root)
    for name in ("params.yaml", f"models/phase1/{MODEL_CARD}"):  # to be written to
        (copy.root / name).unlink()
        shutil.copyfile(trained.root / name, copy.root / name)
    return copy
