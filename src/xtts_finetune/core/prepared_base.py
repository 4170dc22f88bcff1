"""What `prepare` wrote down of the base that it opened, and which base that was."""

from pathlib import Path
from typing import Any

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, Workspace


def prepared_base(workspace: Workspace, base: str | None = None) -> dict[str, Any] | None:
    """base.json; None where there is none, or it is of another base than `base` of params.yaml.

    Raises:
        UserError: it is damaged.
    """
    file = workspace.prepared / "base" / BASE_INFO
    if not file.is_file():
        return None
    try:
        info: dict[str, Any] = read_json(file)
        opened = (workspace.root / str(info["gpt"]["path"])).parent
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "bring it back: dvc checkout --force prepared, or run: dvc repro -f prepare"
        problem = Problem(str(file), f"is damaged: {error!r}", remedy)
        raise UserError("what prepare left cannot be used", [problem]) from None
    return info if base is None or opened.resolve() == _folder(workspace, base).resolve() else None


def _folder(workspace: Workspace, base: str) -> Path:
    """Where the weights of a base lie: those of mini, which `prepare` makes, beside base.json."""
    return workspace.prepared / "base" if base == "mini" else workspace.base / base
