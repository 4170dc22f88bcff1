"""`xtts-finetune export`: a model as a folder that Coqui's own class loads, whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import files_below, full_disk_raises, held_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import write_json, write_text
from xtts_finetune.core.layout import CARD, COQUI_MODEL, DATA_CARD, EXPORT_CARD, EXPORT_LICENCE, LINEAGE, Workspace
from xtts_finetune.core.params import load_params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_export
from xtts_finetune.export.choice import find_source
from xtts_finetune.export.place import PROGRAM, free_place, published_export
from xtts_finetune.export.source import TITLE, Files, Origin, Source

_SMALL_FILES = 5_000_000  # bytes: vocabulary, config, voice and page; names and padding in model.pth


@dataclass(frozen=True)
class Request:
    """What is wanted."""

    what: str | None  # as of `find_source`
    folder: Path
    speaker: str | None  # None: called as the folder is
    half: bool = False
    force: bool = False


def export_lines(workspace: Workspace, request: Request) -> Iterator[str]:
    """Write a model's weights, voice and page into a folder, and say what is there.

    Raises:
        UserError: there is no such model, it is damaged or speaks without XTTS v2's vocoder, or the folder is not to
            be used or has no room.
        DiskFull: somebody else took the room; nothing is left.
    """
    params = load_params(workspace.params)
    place = free_place(workspace, request.folder, request.force)
    speaker = _speaker(request)
    source = find_source(workspace, params, request.what)
    if not source.has_vocoder:
        raise _no_xtts(source.origin)
    preflight_export(workspace, params, list(_terms(workspace, source, place, request.half)))
    yield f"exporting {source.origin.title}"
    with full_disk_raises(), published_export(workspace, place, request.force) as folder, source.open() as files:
        unknown = _fill(folder, source.origin, files, speaker, request.half)
    yield f"{quoted(place)}: {shown(held_bytes(files_below(place)))}, with the voice {speaker!r}"
    yield from source.doubts
    if unknown:
        names = ", ".join(file.name for file in unknown)
        yield f"not checked, as no SHA-256 of theirs was recorded when this was made: {names}"
    yield f"Coqui's Xtts.load_checkpoint loads it: {quoted(place / CARD)} says how"


def _speaker(request: Request) -> str:
    # as it is typed, which may be a link
    speaker = Path(os.path.abspath(request.folder)).name if request.speaker is None else request.speaker
    if not speaker.strip() or not speaker.isprintable():
        what = "is no name for a voice: blank, or with characters that cannot be shown"
        raise UserError(TITLE, [Problem(f"--speaker {speaker!r}", what, "--speaker NAME, in letters")])
    return speaker


def _no_xtts(origin: Origin) -> UserError:
    what = f"was trained on the base {origin.base}, which is no XTTS: it speaks by Griffin and Lim's algorithm"
    remedy = "train on XTTS v2, or files of its shape: base in params.yaml, then dvc repro"
    return UserError(TITLE, [Problem(origin.title, f"{what}, and no class of Coqui's loads that", remedy)])


def _terms(workspace: Workspace, source: Source, place: Path, half: bool) -> Iterator[Term]:
    yield Term(place, f"{COQUI_MODEL}{' in fp16' if half else ''}", 1, source.bytes // 2 if half else source.bytes)
    yield Term(place, "vocabulary, voice, page", 1, _SMALL_FILES)
    if source.downloaded_bytes:
        yield Term(workspace.downloads, "downloaded from MLflow", 1, source.downloaded_bytes)


def _fill(folder: Path, origin: Origin, files: Files, speaker: str, half: bool) -> list[Path]:
    """What of the files could not be checked."""
    from xtts_finetune.export.coqui import is_published, write_model
    from xtts_finetune.export.page import licence, page

    unknown = write_model(folder, files, origin.sha256, speaker, half)
    write_json(folder / EXPORT_CARD, {"program": PROGRAM, **asdict(origin), "speaker": speaker, "half": half})
    write_text(folder / CARD, page(origin, files, speaker, half))
    files.lineage.write(folder / LINEAGE)
    if files.data_card:
        shutil.copyfile(files.data_card, folder / DATA_CARD)
    write_text(folder / EXPORT_LICENCE, licence(origin, is_published(files.base)))
    return unknown
