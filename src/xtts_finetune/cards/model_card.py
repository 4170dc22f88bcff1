"""README.md of a registered or exported model: what it is, how good, of whose voice, and what it may be used for."""

import re
from collections.abc import Iterator
from typing import Any

from xtts_finetune.cards.lineage import Figures, Interval, Lineage
from xtts_finetune.core.constants import TEXT_WEIGHT
from xtts_finetune.core.layout import DATA_CARD, LINEAGE
from xtts_finetune.model.published import LICENCE, LICENCE_TEXT, REPOSITORY

_UNKNOWN = "not known"
MINI = "mini"
_NAMES = {"mel_ce": "Mel CE", "text_ce": "Text CE"}
_MARKUP = re.compile(r"([\\`*_\[\]|~#$])")
_AT_THE_START = re.compile(r"^(\d*)([-+=]|(?<=\d)[.)])")  # a list, or the underline of a heading
_PLAIN = re.compile(r"[\w./:@ -]+", re.ASCII)

_USE = """\
## What it is for, and what not

It says text in the voice that it was trained on. It is meant for what the speaker agreed to, and nothing else.

It is not to be used to pass as the speaker, to put words into their mouth, to deceive, or to get past a check of
somebody's voice; nor is another voice to be cloned with it without that person's consent. Say of what it says that it
was made by a machine. It can leave words out, repeat or mispronounce them: where that matters, listen to all of it.
"""
_NO_CONSENT = """\
No statement came with the recordings (`data/consent.yaml`): who speaks, and whether they agreed, is not known here.
Use the voice of nobody who has not agreed.
"""


def model_card(lineage: Lineage, name: str, title: str, loading: str, has_data_card: bool) -> str:
    """The page, with Hugging Face's metadata before it.

    Args:
        name: of the model, or of its voice.
        title: where it was taken from, in words.
        loading: how to load it, in Markdown.
        has_data_card: whether croissant.json lies beside.
    """
    from huggingface_hub import ModelCard  # a third of a second

    parts = (
        f"# A voice: {as_text(name)}\n",
        _figures(lineage),
        _recordings(lineage, has_data_card),
        _consent(lineage),
        _USE,
        _licences(lineage),
        loading,
        _origin(lineage, title),
    )
    card = ModelCard(f"---\n{_metadata(lineage, name)}\n---\n\n" + "\n".join(parts))
    return str(card)


def as_text(text: str) -> str:
    """One line that Markdown and HTML show as it is, whatever is in it."""
    line = _in_a_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _AT_THE_START.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", line))


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def as_code(text: str) -> str:
    """In the form of code, where nothing in it could end that."""
    return f"`{text}`" if _PLAIN.fullmatch(text) else as_text(text)


def _metadata(lineage: Lineage, name: str) -> str:
    from huggingface_hub import ModelCardData

    is_published, results, is_mini = lineage.base.licence is not None, _results(lineage), lineage.base.name == MINI
    card = ModelCardData(
        language=sorted(map(_in_a_line, lineage.data.languages)) if lineage.data else lineage.language,
        base_model=REPOSITORY if is_published else None,
        library_name=None if is_mini else "coqui",
        pipeline_tag="text-to-speech",
        tags=["voice"] if is_mini else ["xtts", "voice", "fine-tuned"],
        model_name=_in_a_line(name) if results else None,
        eval_results=results or None,
        license="other" if is_published else None,
        license_name="coqui-public-model-license" if is_published else None,
        license_link=LICENCE_TEXT.partition(" ")[0] if is_published else None,
    )
    return card.to_yaml()


def _results(lineage: Lineage) -> list[Any]:
    from huggingface_hub import EvalResult

    own = lineage.figures.get(lineage.model.phase)
    if own is None:
        return []
    return [
        EvalResult(
            task_type="text-to-speech",
            dataset_type="recordings",
            dataset_name="recordings kept for evaluation",
            dataset_split="eval",
            dataset_revision=lineage.data.split_digest if lineage.data else None,
            metric_type=measure,
            metric_name=f"{shown}, nats per token",
            metric_value=getattr(own, measure),
            metric_args={"interval_95": list(bounds)} if (bounds := getattr(own, f"{measure}_interval")) else None,
        )
        for measure, shown in _NAMES.items()
        if getattr(own, measure) is not None
    ]


def _figures(lineage: Lineage) -> str:
    rows = [_row(name, each, name == lineage.model.phase) for name, each in lineage.figures.items()]
    if not rows:
        return f"## How good it is\n\nIts losses on the recordings kept for evaluation are {_UNKNOWN}.\n"
    table = ["| model | eval Mel CE | eval Text CE | (× 0.01) |", "|---|---|---|---|", *rows]
    clips = [each.clips for each in lineage.figures.values() if each.mel_ce_interval and each.clips]
    sure = ""
    if clips:
        sure = f", in brackets where it lies with 95 % confidence (bootstrap over the {max(clips)} clips)"
    told = f"Cross-entropies in nats per token on the recordings kept for evaluation{sure}; lower is better.\n"
    return "\n".join(["## How good it is\n", *table, "", told])


def _row(name: str, figures: Figures, is_this: bool) -> str:
    mel = _figure(figures.mel_ce, figures.mel_ce_interval)
    text = _figure(figures.text_ce, figures.text_ce_interval)
    weighted = "" if figures.text_ce is None else f"{figures.text_ce * TEXT_WEIGHT:.4f}"
    shown = f"**{as_text(name)}, this one**" if is_this else as_text(name)
    return f"| {shown} | {mel} | {text} | {weighted} |"


def _figure(value: float | None, bounds: Interval | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")


def _recordings(lineage: Lineage, has_data_card: bool) -> str:
    data, described = lineage.data, f"\n`{DATA_CARD}` describes them for programs.\n" if has_data_card else ""
    if data is None:
        return f"## Recordings\n\nHow many there were is {_UNKNOWN}.\n{described}"
    kinds = ", ".join(f"{as_text(kind)} {count}" for kind, count in data.rejected_by_kind.items())
    languages = ", ".join(f"{as_text(name)} ({count} clips)" for name, count in data.languages.items())
    rows = [
        ("trained on", f"{data.clips['train']} clips, {60 * data.hours['train']:.1f} minutes"),
        ("kept for evaluation", f"{data.clips['eval']} clips, {60 * data.hours['eval']:.1f} minutes"),
        ("rejected", f"{data.clips['rejected']} of {data.clips['read']}{f': {kinds}' if kinds else ''}"),
        ("language", languages),
        ("speakers", str(data.speakers)),
    ]
    return f"## Recordings\n\n{_table(rows)}{described}"


def _consent(lineage: Lineage) -> str:
    consent = lineage.data.consent if lineage.data else None
    if consent is None:
        return f"## Consent\n\n{_NO_CONSENT}"
    quoted = "\n".join(f"> {as_text(line)}".rstrip() for line in consent.consents_to.splitlines())
    rows = [
        ("who speaks", as_text(consent.speaker)),
        ("date", consent.date.isoformat()),
        ("licence of the recordings", as_text(consent.licence)),
        ("contact", as_text(consent.contact)),
    ]
    return f"## Consent\n\n{_table(rows)}\nTo what, in their words (`data/consent.yaml`):\n\n{quoted}\n"


def _licences(lineage: Lineage) -> str:
    base, consent = lineage.base, lineage.data.consent if lineage.data else None
    if base.licence:
        of_base = (
            f"{as_text(base.licence)}: non-commercial use only, for the model and for what it says. {LICENCE_TEXT}"
        )
    elif base.name == MINI:
        of_base = "none: `mini` was built from the seed and the recordings"
    else:
        of_base = f"that of {as_code(base.name)}; if it derives from XTTS v2, the {LICENCE}: non-commercial use only"
    rows = [("base", of_base), ("recordings", as_text(consent.licence) if consent else "not stated")]
    return f"## Licence\n\n{_table(rows)}"


def _origin(lineage: Lineage, title: str) -> str:
    return f"## Where it came from\n\n{_table(list(_rows_of_origin(lineage, title)))}\n`{LINEAGE}` has all of it.\n"


def _rows_of_origin(lineage: Lineage, title: str) -> Iterator[tuple[str, str]]:
    model, base = lineage.model, lineage.base
    average = ", the moving average of its weights (`ema`)" if model.best_weights == "ema" else ""
    yield "model", as_text(title)
    yield "phase, step", f"{as_text(model.phase)}, {_UNKNOWN if model.step is None else model.step}{average}"
    yield "SHA-256 of its weights (`model.safetensors`)", as_code(model.sha256)
    yield "base", as_code(base.name) + (f", weights {as_code(base.sha256)}" if base.sha256 else "")
    commit = as_text(lineage.git_commit) if lineage.git_commit else _UNKNOWN
    yield "git commit", f"{commit}, and changes to it" if lineage.git_dirty else commit
    prepared = lineage.dvc and lineage.dvc.get("prepare")
    digest = prepared.deps.get("data") if prepared else None
    yield "recordings (DVC)", as_text(digest) if digest else _UNKNOWN
    for name, run in lineage.runs.items():
        if run:
            told = f", in MLflow {as_text(run.mlflow_run_id)}" if run.mlflow_run_id else ""
            yield f"run of {as_text(name)}", f"{as_text(run.key)}{told}"


def _table(rows: list[tuple[str, str]]) -> str:
    return "".join(["| | |\n|---|---|\n", *(f"| {name} | {text} |\n" for name, text in rows)])
