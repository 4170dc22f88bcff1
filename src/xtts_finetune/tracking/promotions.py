"""The promotions: who became champion, when, by whom, on what figures. Append-only, in the repository and in MLflow.

registry/promotions.jsonl has an entry a line, each with its own SHA-256 and those of the entries that were the last
before it: a line that was changed, or taken out, is found. Every entry is also a tag of the version that it made
champion, by which clones of one project that share a server know of each other's. Two that promote at once follow the
same entry, and the next one follows both: a graph, as git's of commits. The file has it in an order in which every
entry stands after those that it follows; clocks do not matter.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import fsync_path, published_file, read_json, sha256_json, write_json, write_text
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.phase_params import Strict

TITLE = "the promotion log cannot be used"
TAG = "promotion."  # begins the tags of a version that are entries; the rest is of their SHA-256
DIGITS = 16
OF_A_LATER = (  # what an entry is that has other fields, and the remedy
    "was written by another version of xtts-finetune, which has other fields",
    "take the newest xtts-finetune of all who promote here; where none knows it, it was made by hand",
)

Action = Literal["promote", "rollback", "found"]  # found: moved by other means, as on the model's page in MLflow


class Rule(Strict):
    """One rule of the gate, and what it found."""

    name: str
    candidate: int | float | None  # None: it could not be measured
    champion: int | float | None
    demand: str  # what is asked of the candidate, in words
    passed: bool
    # of the change sentence by sentence, where there is one: a difference, or a share of the champion's (demand has %)
    interval: tuple[float, float] | None = None
    remark: str = ""


class Entry(Strict):
    """One move of the alias `champion`."""

    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]  # UTC
    who: str  # as git commits
    action: Action
    model: str  # the registered model's name
    before: int | None  # the version that was champion; None: there was none
    before_sha256: str  # of its weights; "" of none, and where the version is gone
    champion: int  # the version that became it
    champion_sha256: str  # of its weights
    rules: list[Rule]
    forced: bool  # though the gate refused
    why: str  # in the words of who did it
    follows: list[str]  # the digests of the entries that were the last before it; of the first none
    registry: str = ""  # tells where the versions are from clones that have the same; "" in entries of before

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return sha256_json(self._content)

    @property
    def _content(self) -> dict[str, Any]:
        return self.model_dump(exclude=None if self.registry else {"registry"})

    @property
    def text(self) -> str:
        """Its line, without the line end."""
        return json.dumps({**self._content, "sha256": self.digest}, ensure_ascii=False, sort_keys=True)

    @property
    def tag(self) -> str:
        """The name of its tag in MLflow."""
        return f"{TAG}{self.digest[:DIGITS]}"

    @staticmethod
    def parse(text: str) -> "Entry":
        """An entry from its line.

        Raises:
            ValueError: it is none, or was changed after it was written.
        """
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            raise ValueError("is no entry") from error
        entry = Entry(**{name: getattr(line, name) for name in Entry.model_fields})
        if entry.digest != line.sha256:
            raise ValueError("was changed after it was written: its SHA-256 is another")
        if entry.text != text:  # a field that stands there twice, say, of which readers take one or the other
            raise ValueError("was changed after it was written, though not in what its SHA-256 is of")
        return entry


class _Line(Entry):
    sha256: str


def digest_of_a_later(text: str) -> str:
    """SHA-256 of an entry which is as it was written, and has fields that these have not; "" of any other text."""
    try:
        content = json.loads(text)
        digest = content.pop("sha256")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return ""
    is_later = bool(content.keys() - Entry.model_fields.keys())
    return digest if is_later and sha256_json(content) == digest else ""


def before_in(text: str) -> int | None:
    """The version that was champion before, by an entry of whichever program; None where it does not say."""
    try:
        before = json.loads(text)["before"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return before if isinstance(before, int) else None


@dataclass(frozen=True)
class Log:
    """The entries of a file, in its order, and after them those that only MLflow has."""

    file: Path
    entries: list[Entry]
    strays: tuple[Entry, ...] = ()  # of MLflow's those that follow an entry which is nowhere

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
                what_to_do = OF_A_LATER if digest_of_a_later(text) else (str(error), _remedy(text))
                problems.append(Problem(where, *what_to_do))
                continue
            entries.append(entry)
        if not problems:
            problems = list(_gaps(file, entries))
        if problems:
            raise UserError(TITLE, problems)
        return cls(file, entries)

    def joined(self, others: Iterable[Entry]) -> "Log":
        """With what MLflow knows beside it, each after those that it follows."""
        entries, known = [*self.entries], {entry.digest for entry in self.entries}
        waiting = {entry.digest: entry for entry in others if entry.digest not in known}
        while ready := [entry for entry in waiting.values() if known.issuperset(entry.follows)]:
            next_one = min(ready, key=lambda entry: (entry.time, entry.digest))
            entries.append(waiting.pop(next_one.digest))
            known.add(next_one.digest)
        return Log(self.file, entries, tuple(waiting.values()))

    def appended(self, entry: Entry) -> "Log":
        return Log(self.file, [*self.entries, entry], self.strays)

    def write(self) -> None:
        """Publish the file: whole or as before."""
        with self._published():
            pass

    @contextmanager
    def written(self) -> Iterator[None]:
        """Publish the file behind the block; it has its room before, and where the block raises it is as before.

        With what git brings during the block, as it asks MLflow.
        """
        with self._published() as temporary:
            yield
            now = Log.read(self.file).joined(self.entries)
            if now.entries != self.entries:
                now._fill(temporary)

    @contextmanager
    def _published(self) -> Iterator[Path]:
        self.file.parent.mkdir(exist_ok=True)
        with published_file(self.file) as temporary:
            self._fill(temporary)
            yield temporary

    def _fill(self, file: Path) -> None:
        assert not list(_gaps(self.file, self.entries)), "what is written can be read again"
        file.write_bytes("".join(f"{entry.text}\n" for entry in self.entries).encode("utf-8"))
        fsync_path(file)


def keep_intent(workspace: Workspace, entry: Entry | None) -> None:
    """Keep what is about to be written, for who finds the champion moved and no line of it; None: it is written."""
    if entry:
        write_text(workspace.promotion_begun, f"{entry.text}\n")
    else:
        with suppress(OSError):  # what is written is told by its line: what is left here counts no more
            workspace.promotion_begun.unlink(missing_ok=True)


def kept_intent(workspace: Workspace) -> Entry | None:
    """The entry that was about to be written when a command was killed."""
    with suppress(OSError, ValueError):  # what is damaged counts as nothing
        return Entry.parse(workspace.promotion_begun.read_text(encoding="utf-8").removesuffix("\n"))
    return None


def known_here(workspace: Workspace) -> set[str]:
    """Digests of the entries that were written in this workspace, or that MLflow had when it was asked here.

    git brings the file from anywhere; of these it is sure that they were not made by hand.

    Raises:
        UserError: they cannot be read.
    """
    file = workspace.promotions_known
    try:
        return set(map(str, read_json(file)))
    except (FileNotFoundError, ValueError, TypeError):  # what is damaged counts as nothing
        return set()
    except OSError as error:
        remedy = "let this user read it: it says which lines of the promotion log were written here"
        raise UserError(TITLE, [Problem(str(file), f"cannot be read: {error.strerror}", remedy)]) from None


def remember(workspace: Workspace, digests: Iterable[str]) -> None:
    """Add some to `known_here`."""
    before = known_here(workspace)
    if new := set(digests) - before:
        write_json(workspace.promotions_known, sorted(before | new))


def _lines(file: Path) -> list[str]:
    try:
        if file.is_symlink():
            remedy = "put the file itself there: git keeps no more of it than where it points to"
            raise UserError(TITLE, [Problem(str(file), "is a link", remedy)])
        text = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        where = file.parent if isinstance(error, NotADirectoryError) else file
        remedy = f"let this user read it, or bring it back: git checkout -- {file.parent.name}/{file.name}"
        raise UserError(TITLE, [Problem(str(where), f"cannot be read: {error.strerror}", remedy)]) from None
    except UnicodeDecodeError:
        raise UserError(TITLE, [Problem(str(file), "is no text in UTF-8", _remedy("…"))]) from None
    return text.removesuffix("\n").split("\n") if text else []  # a "why" may have other line ends in it


def _gaps(file: Path, entries: list[Entry]) -> Iterator[Problem]:
    """Entries that follow one which is not before them, or stand there twice."""
    before = set[str]()
    for number, entry in enumerate(entries, 1):
        if not before.issuperset(entry.follows):
            yield Problem(f"{file}:{number}", "the entry that it follows is not before it", _remedy(entry.text))
        if entry.digest in before:
            yield Problem(f"{file}:{number}", "stands there twice", "delete the second")
        before.add(entry.digest)


def _remedy(text: str) -> str:
    if text.startswith(("<<<<<<<", "|||||||", "=======", ">>>>>>>")):
        return "git left it where two branches meet: keep the entries of both sides, and delete this line"
    if not text.strip():
        return "delete the line"
    return (
        "git log -p -- registry/promotions.jsonl has it as it was; or move the file away: MLflow's entries come back "
        f"with the next promote (tags {TAG}…), but none of a version that was deleted there"
    )
