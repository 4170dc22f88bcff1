"""The network that a base has, by its shapes alone: no weight is read, and no file of it need be there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import CONFIG, VOCABULARY, Workspace
from xtts_finetune.core.prepared_base import PREPARE_AGAIN, prepared_base
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.base import Base
from xtts_finetune.model.parts import COPY, TITLE, find_parts
from xtts_finetune.model.published import base_folder, is_pinned
from xtts_finetune.model.xtts import GPT, VoiceBpeTokenizer

PUBLISHED_TOKENS = 6681  # of XTTS v2's vocab.json


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
    """As `prepare` left it, else as its files say; of mini as `prepare` will build it, of XTTS v2 as it was published.

    Of a base whose folder is not there, XTTS v2's.

    Raises:
        UserError: its files are there, and are not all, or not of an XTTS model; or what `prepare` left is damaged.
    """
    if prepared_base(workspace, base) is not None:
        opened = Base.prepared(workspace).folder
        return Network(_from_files(opened / CONFIG, opened / VOCABULARY, PREPARE_AGAIN), "as prepared")
    if base == "mini":
        args = xtts.default_args(**mini.GPT_SHAPE)
        return Network(lambda: xtts.build_gpt(args, _vocabulary(mini.TEXT_TOKENS)), "as prepare will build it")
    folder = base_folder(workspace, base)
    if is_pinned(base) or not folder.is_dir():
        args = xtts.default_args()
        source = "as published" if is_pinned(base) else f"as XTTS v2 was published, as there is no folder {folder}"
        return Network(lambda: xtts.build_gpt(args, _vocabulary(PUBLISHED_TOKENS)), source)
    parts = find_parts(folder, False, workspace)
    return Network(_from_files(parts.config, parts.vocabulary, COPY), f"by the files in {folder}")


def _from_files(config: Path | None, vocabulary: Path, remedy: str) -> Callable[[], GPT]:
    """By a base's config.json (None: XTTS v2's) and vocab.json."""
    try:
        args = xtts.default_args() | ({} if config is None else read_json(config)["model_args"])
        tokenizer = xtts.build_tokenizer(vocabulary)
        with torch.device("meta"):
            xtts.build_gpt(args, tokenizer)
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        what = f"its {CONFIG} and {VOCABULARY} are not of an XTTS model: {error!r}"
        raise UserError(TITLE, [Problem(str(vocabulary.parent), what[:300], remedy)]) from None
    return lambda: xtts.build_gpt(args, tokenizer)


def _vocabulary(size: int) -> VoiceBpeTokenizer:
    """One of that many tokens, none of which is a word."""
    words = {f"[{number}]": number for number in range(size - 2)}
    tokenizer = VoiceBpeTokenizer()
    tokenizer.tokenizer = Tokenizer(WordLevel({**words, "[STOP]": size - 2, "[START]": size - 1}))
    return tokenizer
