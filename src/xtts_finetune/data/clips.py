"""Raw clips: what metadata.csv says is spoken, by whom, in which file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from xtts_finetune.core.constants import LANGUAGES
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import contained

METADATA = "metadata.csv"
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
DEFAULT_SPEAKER = "default"  # of clips whose metadata names none
_ONE_OF = f"write one of {', '.join(LANGUAGES)}"
SHOWN = 20  # problems in one message
_COLUMNS = ("audio_file", "text", "speaker_name", "emotion_name", "language")  # of Coqui's layout; no emotion is used
_SEPARATORS = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}
LAYOUT = "metadata.csv has a line id|text|normalised text per clip, and wavs/<id>.wav is its recording"


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording and its transcript, as metadata.csv names them; neither has been looked at yet."""

    id: str
    audio: Path  # absolute
    text: str  # what is spoken: the normalised text where there is one
    language: str
    speaker: str
    line: int  # of metadata.csv, from 1


_ClipOf = Callable[[Path, int, list[str], str], Clip]  # (data, line, fields, language)


def read_metadata(data: Path, language: str) -> list[Clip]:
    """The clips of `data`/metadata.csv, in its order.

    Two layouts: LJSpeech (`id|text[|normalised]`, no header, audio in wavs/<id>.wav, .flac, …) and Coqui (a header
    with audio_file and text, and perhaps speaker_name, emotion_name and language). Nothing is quoted: `|` always
    separates.

    Args:
        language: of clips whose row names none.

    Raises:
        UserError: the file is missing, empty, not UTF-8, or has malformed rows; all of them in one message.
    """
    data = data.absolute()
    _names.cache_clear()
    rows = _rows(data)
    clip_of: _ClipOf = _ljspeech_clip
    header = [field.strip() for field in rows[0][1]]
    if header[:2] == ["id", "text"]:  # LJSpeech's own layout has none
        rows.pop(0)
    elif "audio_file" in header:
        clip_of = _coqui_clips(data, *rows.pop(0))
    clips: list[Clip] = []
    problems: list[Problem] = []
    for line, fields in rows:
        try:
            clips.append(clip_of(data, line, fields, language))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(f"{data.name}/{METADATA} has {len(problems)} malformed line(s)", _shortened(problems, data))
    if not clips:
        raise _unusable(data, "has a header but no clips", f"add a line per clip: {LAYOUT}")
    return clips


def _shortened(problems: list[Problem], data: Path) -> list[Problem]:
    """The first problems, and how many more there are."""
    more = len(problems) - SHOWN
    if more <= 0:
        return problems
    rest = Problem(f"{data.name}/{METADATA}", f"and {more} more", "correct these and try again")
    return [*problems[:SHOWN], rest]


def _rows(data: Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank; at least one."""
    if not data.is_dir():
        remedy = f"`make setup` brings the starter data, or put your own there: {LAYOUT}"
        raise UserError("there are no recordings", [Problem(f"{data.name}/", "does not exist", remedy)])
    try:
        content = (data / METADATA).read_bytes()
    except OSError as error:
        raise _unusable(data, f"cannot be read: {error.strerror}", f"put it there: {LAYOUT}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 text: byte 0x{error.object[error.start]:02x}"
        raise _unusable(data, what, "save it as UTF-8 and try again", line) from None
    lines = enumerate(text.split("\n"), start=1)  # not splitlines(), which also splits at U+2028 and the like
    rows = [(number, line.split("|")) for number, line in lines if line.strip()]
    if not rows:
        raise _unusable(data, "is empty", f"add a line per clip: {LAYOUT}")
    return rows


def _ljspeech_clip(data: Path, line: int, fields: list[str], language: str) -> Clip:
    if len(fields) not in (2, 3):
        other = next((name for mark, name in _SEPARATORS.items() if len(fields) == 1 and mark in fields[0]), None)
        remedy = f"write id|text|normalised text{f', with | between them instead of {other}' if other else ''}"
        raise _unusable(data, f"has {len(fields)} column(s): {_short(fields)}", remedy, line)
    name = fields[0].strip()
    stem = name[: -len(suffix)] if (suffix := PurePath(name).suffix).lower() in SUFFIXES else name
    audio = _find(data, name, [f"wavs/{stem}{suffix}" for suffix in SUFFIXES], line)
    return Clip(stem, audio, fields[-1].strip() or fields[1].strip(), language, DEFAULT_SPEAKER, line)


def _coqui_clips(data: Path, line: int, header: list[str]) -> _ClipOf:
    """How to read the rows under this header."""
    columns = [column.strip() for column in header]
    if "text" not in columns:
        raise _unusable(data, f"has no column text: {_short(header)}", "start it with audio_file|text", line)
    unknown = [column for column in columns if column not in _COLUMNS]
    if unknown:
        what = f"has columns that nothing is known of: {_short(unknown)}"
        raise _unusable(data, what, f"leave them out; known are {'|'.join(_COLUMNS)}", line)

    def clip_of(data: Path, line: int, fields: list[str], language: str) -> Clip:
        if len(fields) != len(columns):
            what = f"has {len(fields)} column(s), the header {len(columns)}: {_short(fields)}"
            raise _unusable(data, what, f"write {'|'.join(columns)}", line)
        row = {column: field.strip() for column, field in zip(columns, fields, strict=True)}
        name = row["audio_file"]
        audio = _find(data, name, [name, f"wavs/{name}"], line)
        speaker, spoken = row.get("speaker_name") or DEFAULT_SPEAKER, row.get("language") or language
        if spoken not in LANGUAGES:
            raise _unusable(data, f"has no language that XTTS v2 speaks: {spoken!r}", _ONE_OF, line)
        return Clip(name, audio, row["text"], spoken, speaker, line)

    return clip_of


def _find(data: Path, name: str, candidates: list[str], line: int) -> Path:
    """The first of the candidates (paths relative to `data`) that is a file, else the first of all.

    Case counts only where two names differ in nothing else: recorders like `UP.WAV`, Windows knows no difference.
    """
    if not name or "\0" in name:
        raise _unusable(data, f"has no usable file name: {name!r}", "name the recording in the first column", line)
    for candidate in candidates:
        path = _inside(data, candidate, line)
        if os.path.isfile(path):  # unlike Path.is_file, it takes any name
            return path
    for candidate in candidates:
        path = _inside(data, candidate, line)
        alike = _names(path.parent).get(path.name.casefold())
        if alike:
            return path.with_name(alike)
    return _inside(data, candidates[0], line)


@cache
def _names(folder: Path) -> dict[str, str]:
    """The files of a folder by their names without case; none if it is no folder."""
    try:
        return {name.casefold(): name for name in sorted(os.listdir(folder), reverse=True)}
    except OSError:
        return {}


def _inside(data: Path, relative: str, line: int) -> Path:
    """A path under `data`. Only its folder is resolved: DVC may have linked the file itself to its cache elsewhere."""
    path = PurePath(relative)
    return contained(data, str(path.parent), f"{data.name}/{METADATA}:{line}: {relative}") / path.name


def _unusable(data: Path, what: str, remedy: str, line: int | None = None) -> UserError:
    where = f"{data.name}/{METADATA}" + (f":{line}" if line else "")
    return UserError(f"{data.name}/{METADATA} cannot be used", [Problem(where, what, remedy)])


def _short(fields: list[str]) -> str:
    row = "|".join(fields).strip()
    return repr(row if len(row) <= 60 else row[:59] + "…")
