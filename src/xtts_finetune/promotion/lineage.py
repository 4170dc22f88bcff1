"""Which run a registered version is of, as far as git and DVC name it, and whether it lies here."""

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import MODEL_CARD, PHASES, PhaseName, Workspace
from xtts_finetune.dvcio.cache import Cache
from xtts_finetune.dvcio.history import Revision, revisions
from xtts_finetune.dvcio.outs import out_path
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.outbox import TRAINED
from xtts_finetune.tracking.registry import Version
from xtts_finetune.tracking.versions import shown

TITLE = "this version cannot be reproduced here"


def trained_weights(version: Version) -> str:
    """The SHA-256 of the weights that its phase exported: where parts were frozen, the version may have more."""
    return version.tags.get(TRAINED) or version.tags.get(WEIGHTS_TAG, "")


def phase_of(version: Version) -> PhaseName:
    """Raises UserError: its tag names none."""
    for phase in PHASES:
        if version.tags.get("phase") == phase:
            return phase
    raise UserError(TITLE, [Problem(shown(version), "its tag `phase` names no phase", "choose another version")])


def named_by(workspace: Workspace, version: Version) -> Revision | None:
    """Who names its run in git: the first whose dvc.lock names a model that says it has these weights.

    By the cards in DVC's cache.

    Raises:
        UserError: git cannot say.
    """
    cache, model = Cache(workspace), out_path(workspace, workspace.model(phase_of(version)))
    for revision in revisions(workspace):
        listing = cache.listing(revision.outs.get(model, ""))
        card = read_json_object(cache.path(listing[MODEL_CARD])) if MODEL_CARD in listing else {}
        if revision.commit and card.get("sha256") == trained_weights(version):
            return revision
    return None


def lies_here(workspace: Workspace, version: Version) -> bool:
    """Whether models/ has its run, by what its card says of its weights."""
    card = read_json_object(workspace.model(phase_of(version)) / MODEL_CARD)
    return bool(card) and card.get("sha256") == trained_weights(version)
