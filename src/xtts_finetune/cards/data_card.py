"""croissant.json: the recordings and what was made of them, in MLCommons' Croissant 1.0, without the transcripts.

mlcroissant takes more than a second to import: only inside functions.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from xtts_finetune.cards.consent import Consent
from xtts_finetune.core.bars import Bar
from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.layout import SPLITS, Workspace
from xtts_finetune.data.clips import METADATA

if TYPE_CHECKING:
    import mlcroissant

FEATURES_DIGEST = "features_sha256"  # the entry of reports/dataset.json that says of which prepared/ it is
_SOUND = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".opus": "audio/ogg", ".mp3": "audio/mpeg"}
_KINDS = {
    ".jsonl": ("application/jsonlines", "a line for each clip: what the fields describe, and its transcript"),
    ".audio.i16": ("application/octet-stream", f"16-bit PCM at {SAMPLE_RATE} Hz, clip after clip, without headers"),
    ".codes.i16": ("application/octet-stream", "audio codes, 16-bit integers, clip after clip"),
    ".tokens.i32": ("application/octet-stream", "text tokens, 32-bit integers, clip after clip"),
}
_FIELDS = {  # of a line of <split>.jsonl
    "id": ("TEXT", "the name of the clip"),
    "text": ("TEXT", "its transcript; it is not here"),
    "language": ("TEXT", "that is spoken"),
    "speaker": ("TEXT", "as metadata.csv names them"),
    "seconds": ("FLOAT", "its length"),
    "samples": ("INTEGER", f"its length in samples at {SAMPLE_RATE} Hz"),
    "codes": ("INTEGER", "how many audio codes it has"),
    "tokens": ("INTEGER", "how many text tokens it has"),
}


def data_card(
    workspace: Workspace,
    recordings: Sequence[Path],
    features: Mapping[str, str],
    languages: Sequence[str],
    consent: Consent | None,
) -> dict[str, Any]:
    """A Croissant description that mlcroissant itself finds valid; equal data give equal descriptions.

    Args:
        recordings: that were accepted, in data/.
        features: SHA-256 of the files in prepared/, by name.
        languages: that are spoken.
    """
    import mlcroissant as mlc

    metadata = mlc.Metadata(
        name="recordings",
        description="Recordings of a voice, and what XTTS is trained on: sound, audio codes and text tokens.",
        conforms_to=["http://mlcommons.org/croissant/1.0"],
        in_language=list(languages),
        license=[consent.licence] if consent else None,
        personal_sensitive_information=[_said(consent)],
        distribution=[*_recordings(workspace, recordings), *_features(workspace, features)],
        record_sets=[_records(split) for split in SPLITS],
    )
    content: dict[str, Any] = metadata.to_json()
    return content


def _said(consent: Consent | None) -> str:
    if consent is None:
        return "Voices are personal. No statement of the speakers' consent came with the recordings."
    told = f"Voices are personal. Who speaks: {consent.speaker}. Consents, on {consent.date.isoformat()}, to: "
    return f"{told}{consent.consents_to} Contact: {consent.contact}"


def _recordings(workspace: Workspace, recordings: Sequence[Path]) -> Iterator["mlcroissant.FileObject"]:
    for file in Bar((workspace.data / METADATA, *recordings), desc="describing recordings", unit="file"):
        suffix = PurePath(file.name).suffix.lower()
        place = file.relative_to(workspace.root.absolute()).as_posix()
        yield _file(place, file, _SOUND.get(suffix, "text/csv"), sha256_file(file))


def _features(workspace: Workspace, features: Mapping[str, str]) -> Iterator["mlcroissant.FileObject"]:
    for split in SPLITS:
        for suffix, (kind, what) in _KINDS.items():
            file = workspace.prepared / f"{split}{suffix}"
            yield _file(f"prepared/{file.name}", file, kind, features[file.name], f"{split}: {what}")


def _file(place: str, file: Path, kind: str, sha256: str, what: str | None = None) -> "mlcroissant.FileObject":
    """A file by its place in the checkout."""
    import mlcroissant as mlc

    place = quote(place)  # an id is part of an address
    return mlc.FileObject(
        id=place,
        name=place,
        description=what,
        content_url=place,
        content_size=f"{file.stat().st_size} B",
        encoding_formats=[kind],
        sha256=sha256,
    )


def _records(split: str) -> "mlcroissant.RecordSet":
    import mlcroissant as mlc

    lines = f"prepared/{split}.jsonl"
    fields = [
        mlc.Field(
            id=f"{split}/{name}",
            name=name,
            description=what,
            data_types=[getattr(mlc.DataType, kind)],
            source=mlc.Source(file_object=lines, extract=mlc.Extract(column=name)),
        )
        for name, (kind, what) in _FIELDS.items()
    ]
    return mlc.RecordSet(id=split, name=split, description=f"the clips of the {split} split", fields=fields)
