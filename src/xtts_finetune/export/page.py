"""What an export says of itself: its model card, with how to load it, and its licence."""

from xtts_finetune.cards.model_card import as_text, model_card
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.layout import COQUI_MODEL
from xtts_finetune.export.source import Files, Origin
from xtts_finetune.speech.speaker import TOP_K

_LOADING = """\
## Speak

This folder has the form of XTTS v2's published files: Coqui's own class loads it, and whatever builds on it.
`config.json`, `vocab.json` and the vocoder are those of the base. In `speakers_xtts.pth` is one voice, {shown}.

With `pip install coqui-tts soundfile` (tried with coqui-tts 0.28.0), in this folder:

```python
import soundfile
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

config = XttsConfig()
config.load_json("config.json")
model = Xtts(config)
model.load_checkpoint(config, checkpoint_dir=".")
voice = model.speaker_manager.speakers[{speaker!r}]
spoken = model.inference(
    {text!r},
    {language!r},
    voice["gpt_cond_latent"],
    voice["speaker_embedding"],
    temperature={settings.temperature},
    top_k={top_k},
    top_p={settings.top_p},
    repetition_penalty={settings.repetition_penalty},
)
soundfile.write("../spoken.wav", spoken["wav"], 24_000)
```

{heard} With `config.json`'s own settings:

```python
from TTS.api import TTS

speech = TTS(model_path=".", config_path="config.json")
speech.tts_to_file({text!r}, speaker={speaker!r}, language={language!r}, file_path="../spoken.wav")
```

Or, as a command:

```
tts --model_path . --config_path config.json --speaker_idx {typed} --language_idx {language} --text …
```
{half}"""
_HEARD = "These are the settings that the model was heard with when it was evaluated."
_TO_BE_HEARD = "These are `params.yaml`'s settings of when it was exported: nobody need have heard it with them."
_HALF = f"""
The weights in `{COQUI_MODEL}` are in fp16. Load it as above: Coqui's class copies them into its modules, which are
fp32, so that in memory the model is as large as ever.
"""
_OF_XTTS = """\
This model was fine-tuned from XTTS v2, and XTTS v2's licence holds for it and for what it says:

    Coqui Public Model License 1.0.0: non-commercial use only
"""
_OF_ANOTHER = """\
This model was fine-tuned from a base of XTTS v2's shape:

    {base}

The base's licence holds for it. If the base derives from the XTTS v2 that Coqui published, this is its licence, for the
model and for what it says:

    Coqui Public Model License 1.0.0: non-commercial use only
"""
_TEXT_OF_IT = """
Its text: https://coqui.ai/cpml.txt (also https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt). Read it:
what follows is our understanding, and the text alone counts. Whoever gets from you the model, a modification of it, or
what it says, is to get these terms with it, or their address: https://coqui.ai/cpml.txt
"""


def page(origin: Origin, files: Files, speaker: str, half: bool) -> str:
    """README.md."""
    loading = _LOADING.format(
        shown=as_text(speaker),
        speaker=speaker,
        typed=quoted(speaker),
        text=files.settings.sentences[0],
        language=origin.language,
        settings=files.settings,
        heard=_HEARD if origin.is_registered else _TO_BE_HEARD,
        top_k=TOP_K,
        half=_HALF if half else "",
    )
    return model_card(files.lineage, speaker, origin.title, loading, has_data_card=files.data_card is not None)


def licence(origin: Origin, is_published: bool) -> str:
    """LICENSE.txt.

    Args:
        is_published: the base is XTTS v2 as Coqui published it.
    """
    return (_OF_XTTS if is_published else _OF_ANOTHER.format(base=origin.base)) + _TEXT_OF_IT
