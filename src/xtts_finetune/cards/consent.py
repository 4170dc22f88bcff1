"""data/consent.yaml: who speaks in the recordings, and what they agreed to. It may be left out."""

import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params_mistakes import Mistakes
from xtts_finetune.core.phase_params import Strict
from xtts_finetune.core.yamlfile import read_yaml

_SHOWN_IN = "docs/cards.md"


def _in_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    if not text.replace("\n", " ").isprintable():
        raise ValueError("has characters that cannot be shown")
    return text.strip()


def _in_a_line(text: str) -> str:
    if "\n" in text.strip():
        raise ValueError("has more than one line")
    return _in_words(text)


Line = Annotated[str, Field(max_length=300), AfterValidator(_in_a_line)]


class Consent(Strict):
    """What the speakers agreed to, in their words or yours; every field is needed."""

    speaker: Line  # who speaks
    consents_to: Annotated[str, Field(max_length=10_000), AfterValidator(_in_words)]  # to what
    date: datetime.date  # of the consent
    licence: Line  # of the recordings: an SPDX name or an address where there is one, else in words
    contact: Line  # whom to ask, or to tell that the consent is withdrawn


def read_consent(workspace: Workspace) -> Consent | None:
    """What data/consent.yaml says; None: there is none.

    Raises:
        UserError: it is no YAML, or a field is missing, unknown or of another kind; every problem is named.
    """
    path = workspace.consent
    if not path.exists():
        return None
    title = f"{path.parent.name}/{path.name} cannot be used"
    content = read_yaml(path, title, any_date=True)
    try:
        return Consent.model_validate({} if content is None else content)
    except ValidationError as error:
        raise UserError(title, Mistakes(path, Consent, _SHOWN_IN).problems(error)) from None
