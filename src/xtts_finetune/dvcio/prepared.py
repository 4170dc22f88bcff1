"""Whether prepared/ is what the parameters and the recordings of now make."""

from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.prepared_base import prepared_base
from xtts_finetune.dvcio.cache import named_dependencies, named_outs, named_params
from xtts_finetune.dvcio.outs import out_path


def outdated(workspace: Workspace, params: Params) -> str | None:
    """Why the next `prepare` will leave other clips than lie in prepared/; None: it will not, or nothing lies there.

    In words that go on after "prepared/". By base.json, and by what dvc.lock says of the last `prepare`: what was
    changed in data/ and not added is not seen.

    Raises:
        UserError: what `prepare` left is damaged, or DVC's files are.
    """
    if prepared_base(workspace, params.base) is None:
        return None if prepared_base(workspace) is None else "is of another base"
    now, used = params.model_dump(), named_params(workspace, "prepare")
    changed = [name for name, value in used.items() if now.get(name) != value]
    if changed:
        return f"was made with other settings: {', '.join(changed)}"
    data = out_path(workspace, workspace.data)
    added = named_outs(workspace).get(data)
    is_added = added is not None and added != named_dependencies(workspace, "prepare").get(data, added)
    return f"was made of other recordings than {data}.dvc names" if is_added else None
