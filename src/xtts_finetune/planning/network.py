"""The network that a base has, by its shapes alone: no weight is read, and no file of it need be there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, CONFIG, VOCABULARY, Workspace
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.published import FETCH, base_folder
from xtts_finetune.model.xtts import GPT, VoiceBpeTokenizer

PUBLISHED_TOKENS = 6681  # of XTTS v2's vocab.json
GRIFFIN_LIM = "griffin_lim"  # the vocoder of mini, in base.json


@dataclass(frozen=True)
class Network:
    """How to build a base's network, and whose shapes these are."""

    build: Callable[[], GPT]
    source: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors, by name."""
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in self.build().state_dict().items()}


def network_of(workspace: Workspace, base: str) -> Network:
    """As `prepare` left it, else as its files say, else as it was published; of mini, as `prepare` will build it.

    Raises:
        UserError: its files are there, and are not of an XTTS model.
    """
    prepared = _prepared(workspace, base)
    if prepared:
        return Network(lambda: xtts.build_gpt(prepared.args, prepared.tokenizer()), "as prepared")
    if base == "mini":
        args = xtts.default_args(**mini.GPT_SHAPE)
        return Network(lambda: xtts.build_gpt(args, _vocabulary(mini.TEXT_TOKENS)), "as prepare will build it")
    folder = base_folder(workspace, base)
    files = folder / CONFIG, folder / VOCABULARY
    if all(file.is_file() for file in files):
        return Network(_from_files(*files), f"of {folder}")
    args = xtts.default_args()
    source = f"of the published XTTS v2: {folder} has no {CONFIG} and {VOCABULARY}"
    return Network(lambda: xtts.build_gpt(args, _vocabulary(PUBLISHED_TOKENS)), source)


def _prepared(workspace: Workspace, base: str) -> Base | None:
    """The base in prepared/, if it is this one."""
    opened = Base.prepared(workspace)
    if not (opened.folder / BASE_INFO).is_file():
        return None
    is_mini = opened.info.get("vocoder") == GRIFFIN_LIM
    return opened if is_mini == (base == "mini") else None


def _from_files(config: Path, vocabulary: Path) -> Callable[[], GPT]:
    try:
        args: dict[str, Any] = read_json(config)["model_args"]
        tokenizer = xtts.build_tokenizer(vocabulary)
        with torch.device("meta"):
            xtts.build_gpt(args, tokenizer)
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        what = f"its {config.name} and {vocabulary.name} are not of an XTTS model: {error!r}"
        raise UserError("the base cannot be used", [Problem(str(config.parent), what[:300], FETCH)]) from None
    return lambda: xtts.build_gpt(args, tokenizer)


def _vocabulary(size: int) -> VoiceBpeTokenizer:
    """One of that many tokens, none of which is a word."""
    words = {f"[{number}]": number for number in range(size - 2)}
    tokenizer = VoiceBpeTokenizer()
    tokenizer.tokenizer = Tokenizer(WordLevel({**words, "[STOP]": size - 2, "[START]": size - 1}))
    return tokenizer
