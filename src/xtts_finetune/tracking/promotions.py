"""The promotions: who became champion, when, by whom, on what figures. Append-only, in the repository and in MLflow.

registry/promotions.jsonl has an entry a line, each with its own SHA-256 and that of an entry before it: a line that was
changed, or taken out, is found. Every entry is also a tag of the version that it made champion, by which clones of one
project that share a server know of each other's; two that promote at once follow the same entry, and both stand.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import sha256_json, write_text

TITLE = "the promotion log cannot be used"
TAG = "promotion."  # begins the tags of a version that are entries

Action = Literal["promote", "rollback", "found"]  # found: moved by other means, as on the model's page in MLflow


@dataclass(frozen=True)
class Entry:
    """One move of the alias `champion`."""

    time: str  # UTC, as 2026-11-29T01:22:29Z
    who: str  # as git commits
    action: Action
    model: str  # the registered model's name
    before: int | None  # the version that was champion; None: there was none
    before_sha256: str  # of its weights; "" of none
    champion: int  # the version that became it
    champion_sha256: str  # of its weights
    rules: list[dict[str, Any]]  # what the gate measured, and whether it passed
    forced: bool  # though the gate refused
    why: str  # in the words of who did it
    previous: str  # the digest of an entry before it; of the first ""

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return sha256_json(asdict(self))

    @property
    def text(self) -> str:
        """Its line, without the line end."""
        return json.dumps({**asdict(self), "sha256": self.digest}, ensure_ascii=False, sort_keys=True)

    @property
    def tag(self) -> str:
        """The name of its tag in MLflow."""
        return f"{TAG}{self.digest[:16]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """An entry from its line.

        Raises:
            ValueError: it is none, or was changed after it was written.
        """
        try:
            fields = json.loads(text)
            digest = fields.pop("sha256")
            entry = cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("is no entry") from error
        if entry.digest != digest:
            raise ValueError("was changed after it was written: its SHA-256 is another")
        return entry


@dataclass(frozen=True)
class Log:
    """The entries of a file, in its order, and those that only MLflow has."""

    file: Path
    entries: list[Entry]

    @classmethod
    def read(cls, file: Path) -> Self:
        """The log of a checkout; empty where there is none.

        Raises:
            UserError: a line is no entry, was changed, or follows one that is not there; each is named.
        """
        entries, problems = list[Entry](), list[Problem]()
        for number, text in enumerate(_lines(file), 1):
            where = f"{file}:{number}"
            try:
                entry = Entry.parse(text)
            except ValueError as error:
                problems.append(Problem(where, str(error), _remedy(text)))
                continue
            entries.append(entry)
        if not problems:
            problems = list(_gaps(file, entries))
        if problems:
            raise UserError(TITLE, problems)
        return cls(file, entries)

    def joined(self, others: Iterable[Entry]) -> "Log":
        """With what MLflow knows beside it, after what the file has, in order of time."""
        known = {entry.digest for entry in self.entries}
        new = {entry.digest: entry for entry in others if entry.digest not in known}
        return Log(self.file, [*self.entries, *sorted(new.values(), key=lambda entry: (entry.time, entry.digest))])

    def appended(self, entry: Entry) -> "Log":
        return Log(self.file, [*self.entries, entry])

    def write(self) -> None:
        """Publish the file: whole or as before."""
        self.file.parent.mkdir(exist_ok=True)
        write_text(self.file, "".join(f"{entry.text}\n" for entry in self.entries))

    @property
    def last(self) -> str:
        """The digest that the next entry follows."""
        return self.entries[-1].digest if self.entries else ""


def champions(entries: Iterable[Entry]) -> list[int]:
    """The versions that were champion one after the other, the present one last, without what was taken back."""
    line = list[int]()
    for entry in entries:
        if not line and entry.before is not None:
            line.append(entry.before)
        if entry.action == "rollback" and entry.champion in line[:-1]:
            del line[len(line) - line[::-1].index(entry.champion) :]
        elif line[-1:] != [entry.champion]:
            line.append(entry.champion)
    return line


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise UserError(TITLE, [Problem(str(file), "is no text in UTF-8", _remedy(""))]) from None
    return text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")  # a "why" may have other line ends in it


def _gaps(file: Path, entries: list[Entry]) -> Iterator[Problem]:
    """Entries that follow one which is not before them, or stand there twice."""
    before = {""}
    for number, entry in enumerate(entries, 1):
        if entry.previous not in before:
            yield Problem(f"{file}:{number}", "the entry that it follows is not before it", _remedy(""))
        if entry.digest in before:
            yield Problem(f"{file}:{number}", "stands there twice", "delete the second")
        before.add(entry.digest)


def _remedy(text: str) -> str:
    if text.startswith(("<<<<<<<", "=======", ">>>>>>>")):
        return "git left it where two branches meet: keep the entries of both sides, and delete this line"
    return f"git log -p -- registry/promotions.jsonl has it as it was; MLflow has every entry, too (tags {TAG}…)"
