"""What `prepare` wrote down of the base that it opened, and which base that was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import BASE_INFO, Workspace

PREPARE_AGAIN = "bring it back: dvc checkout --force prepared, or run: dvc repro -f prepare"


def prepared_base(workspace: Workspace, base: str | None = None) -> dict[str, Any] | None:
    """base.json; None where there is none, or it is of another base than `base` of params.yaml.

    Raises:
        UserError: it is damaged.
    """
    file = workspace.prepared / "base" / BASE_INFO
    if not file.is_file():
        return None
    info = read_left(file, PREPARE_AGAIN, lambda content: (Path(content["gpt"]["path"]), content["gpt"]["sha256"]))
    opened = (workspace.root / info["gpt"]["path"]).parent
    return info if base is None or opened.resolve() == _folder(workspace, base).resolve() else None


def _folder(workspace: Workspace, base: str) -> Path:
    """Where the weights of a base lie: those of mini, which `prepare` makes, beside base.json."""
    return workspace.prepared / "base" if base == "mini" else workspace.base / base


def read_left(file: Path, remedy: str, look: Callable[[dict[str, Any]], object] = len) -> dict[str, Any]:
    """A JSON object that a stage left.

    Args:
        look: at what of it is needed, which fails where that is not there.

    Raises:
        UserError: it is damaged.
    """
    try:
        content: dict[str, Any] = dict(read_json(file))
        look(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = Problem(str(file), f"is damaged: {error!r}", remedy)
        raise UserError("what an earlier stage left cannot be used", [problem]) from None
    return content
