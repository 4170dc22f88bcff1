"""What an extended vocabulary adds to a base's weights: a row for each new token, behind the old ones.

The old rows stay in the base's own file, which is not copied; `prepared/base/` keeps the new ones alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import sha256_file

# Of Coqui's GPT: (tokens, model_dim), (tokens, model_dim), (tokens,)
BY_TOKEN = ("text_embedding.weight", "text_head.weight", "text_head.bias")


def new_rows(state: Mapping[str, Tensor], starts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The rows of new tokens, of each tensor in BY_TOKEN.

    Args:
        state: the GPT's weights with its old tokens.
        starts: for each new token, in the order of their ids, the tokens whose mean it starts as: old ones, or new ones
            before it. None: the mean of all old ones.
    """
    return {name: _behind(state[name], starts) for name in BY_TOKEN}


def _behind(table: Tensor, starts: Sequence[Sequence[int]]) -> Tensor:
    old = len(table)
    rows = torch.cat([table.float(), table.new_zeros(len(starts), *table.shape[1:], dtype=torch.float32)])
    for index, start in enumerate(starts, start=old):
        rows[index] = rows[list(start) or slice(old)].mean(0)
    return rows[old:].to(table.dtype).clone()


def write_rows(rows: Mapping[str, Tensor], file: Path) -> str:
    """Keep them; returns the file's SHA-256."""
    save_file(dict(rows), file)
    return sha256_file(file)


def grown(state: Mapping[str, Tensor], file: Path, digest: str | None) -> Mapping[str, Tensor]:
    """A base's own `state` with the rows of `file` behind its own; as it is where its vocabulary was not extended.

    Args:
        digest: SHA-256 of `file`, as base.json has it; None: there are no new rows.

    Raises:
        UserError: the file is gone or another one.
    """
    if digest is None:
        return state
    if not file.is_file() or sha256_file(file) != digest:
        remedy = "bring it back: dvc checkout --force prepared, or run: dvc repro -f prepare"
        raise UserError("the base has changed", [Problem(str(file), "is not the file that prepare wrote", remedy)])
    rows = load_file(file)
    return {**state, **{name: torch.cat([state[name], rows[name]]) for name in BY_TOKEN}}
