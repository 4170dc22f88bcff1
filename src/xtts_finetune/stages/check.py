"""What can be known to be wrong before anything is computed, and before DVC deletes a single out."""

import re

from xtts_finetune.cards.consent import read_consent
from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError, problems_of
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.meeting_place import listening_to_others, rendezvous_of
from xtts_finetune.core.params import Params
from xtts_finetune.data.clips import read_metadata
from xtts_finetune.data.pieces import read_pieces
from xtts_finetune.model.parts import Parts, find_parts
from xtts_finetune.model.published import base_folder, is_pinned


def check(workspace: Workspace, params: Params) -> None:
    """Write base/checked.json: the base's files by their SHA-256. Whatever else was checked changes nothing in it.

    Raises:
        UserError: metadata.csv, consent.yaml or the base cannot be used, or other machines not met; every problem is
            named.
    """
    problems = problems_of(lambda: read_metadata(workspace.data, params.prepare.language))
    problems += problems_of(lambda: read_consent(workspace))
    listed = params.vocabulary.extend
    if listed is not None and listed != "auto":
        problems += problems_of(lambda: read_pieces(workspace.data, listed))
    if params.launch.nodes * params.launch.processes > 1:
        from xtts_finetune.training.launch import refuse_what_is_lacking  # loads torch

        problems += problems_of(lambda: refuse_what_is_lacking(params.launch))
    if params.launch.nodes > 1:
        problems += problems_of(lambda: listening_to_others(rendezvous_of(params.launch)).close())
    parts: list[Parts] = []  # of mini, which prepare builds, there are none
    if params.base != "mini":
        source, pinned = base_folder(workspace, params.base), is_pinned(params.base)
        problems += problems_of(lambda: parts.append(find_parts(source, pinned, workspace)))
    problems += _absent_layers(params, parts)
    if problems:
        raise UserError("nothing was run", problems)
    for note in (note for found in parts for note in found.notes()):
        print(f"base: {note}")
    files = {name: path for found in parts for name, path in found.files().items()}
    write_json(workspace.base_checked, {name: sha256_once(path, workspace.digests) for name, path in files.items()})


def _absent_layers(params: Params, parts: list[Parts]) -> list[Problem]:
    """Layers that params.yaml would train, and the base has not."""
    named = [
        (f"train_{name}.{'lora.in_full' if phase.lora else 'train_only'}", part, int(layer[1]))
        for name in PHASES
        for phase in (params.phase(name),)
        for part in phase.trained.parts or ()
        if (layer := re.match(r"gpt\.h\.(\d+)", part))
    ]
    count = _layers(params, parts) if named else None
    return [
        Problem(f"params.yaml: {key}", f"names {part}; the base has gpt.h.0 to gpt.h.{count - 1}", "name one of these")
        for key, part, layer in named
        if count is not None and layer >= count
    ]


def _layers(params: Params, parts: list[Parts]) -> int | None:
    """Of the base's GPT-2; None: not known, as the base cannot be used, which is said elsewhere."""
    if params.base == "mini":
        from xtts_finetune.model.mini import GPT_SHAPE  # loads torch

        return GPT_SHAPE["gpt_layers"]
    if not parts:
        return None
    if parts[0].config is None:  # XTTS v2's own
        from xtts_finetune.model.xtts import default_args  # loads TTS

        return int(default_args()["gpt_layers"])
    try:
        return int(read_json(parts[0].config)["model_args"]["gpt_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
