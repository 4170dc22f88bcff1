"""What a registered model says of itself: its model card, lineage and data card, beside its files."""

import shutil
from pathlib import Path

from xtts_finetune.cards.gathering import data_card_of
from xtts_finetune.cards.lineage import Lineage
from xtts_finetune.cards.model_card import model_card
from xtts_finetune.core.layout import CARD, DATA_CARD, LINEAGE, Workspace
from xtts_finetune.core.params import Params

_LOADING = """\
## Speak

Where xtts-finetune is installed, by MLflow: it answers text with sound. `NUMBER` is the version's; `@champion` for
`/NUMBER` names the one in use.

```python
import base64
import mlflow
import pandas

mlflow.set_tracking_uri({uri!r})
voice = mlflow.pyfunc.load_model({address!r})
said = pandas.DataFrame([{{"text": {text!r}, "language": {language!r}}}])
[spoken] = voice.predict(said).to_dict("records")
open("spoken.wav", "wb").write(base64.b64decode(spoken["audio_wav_base64"]))
```
"""
_OWN_STORE = "sqlite:///mlruns/mlflow.db"
_ANOTHER = "tracking.uri of params.yaml"  # its address may hold a password
_TO_EXPORT = """
For Coqui's own class, and what builds on it: `xtts-finetune export NUMBER FOLDER` writes this version as a folder in
the form of XTTS v2's published files; its `README.md` says how that is loaded.
"""
_NO_EXPORT = """
Coqui's own class does not load it: its base, `mini`, is no XTTS.
"""


def write_papers(workspace: Workspace, params: Params, lineage: Lineage, folder: Path) -> None:
    """README.md, lineage.json and, if the recordings are described, croissant.json, into a bundle's folder."""
    name = params.registry.model_name
    loading = _LOADING.format(
        uri=_OWN_STORE if params.tracking.uri is None else _ANOTHER,
        address=f"models:/{name}/NUMBER",
        text=params.evaluate.sentences[0],
        language=params.prepare.language,
    )
    loading += _NO_EXPORT if params.base == "mini" else _TO_EXPORT
    title = f"the best of {lineage.model.phase}, registered as {name}"
    data_card = data_card_of(workspace)
    card = model_card(lineage, name, title, loading, has_data_card=data_card is not None)
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    lineage.write(folder / LINEAGE)
    if data_card:
        shutil.copyfile(data_card, folder / DATA_CARD)
