from pathlib import Path

import pytest
import torch
from making.prepared import TEXT
from network_room import _deterministic, workspace  # noqa: F401

from xtts_finetune.model import mini, xtts


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mini") / "vocab.json"
    mini.train_vocabulary([(TEXT, "en")], file)
    return file


@pytest.fixture
def mini_gpt(vocabulary: Path) -> xtts.GPT:
    return xtts.build_gpt(xtts.default_args(**mini.GPT_SHAPE), xtts.build_tokenizer(vocabulary)).train()


@pytest.fixture
def conditioning_mel() -> xtts.TorchMelSpectrogram:
    return xtts.build_conditioning_mel(torch.full((80,), 5.0))
