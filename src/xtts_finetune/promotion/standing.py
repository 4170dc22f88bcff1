"""How things stand: the versions, the log, and who was champion before whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.connection import TrackingStore, reason
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import TAG, Entry, Log, before_in, known_here, remember
from xtts_finetune.tracking.registry import CHAMPION, Version
from xtts_finetune.tracking.versions import Versions

_FIRST = 1  # the version that became champion by being registered


@dataclass(frozen=True)
class Standing:
    """The file and MLflow at one moment."""

    workspace: Workspace
    store: TrackingStore
    versions: Versions
    log: Log

    @classmethod
    def read(cls, workspace: Workspace, store: TrackingStore, model_name: str) -> Self:
        """As things are now.

        Raises:
            UserError: the log is damaged, or MLflow does not answer.
        """
        log = Log.read(workspace.promotions)
        with answered(store, "the champion is not known", "type it again"):
            versions = Versions.of(store, model_name)
        return cls(workspace, store, versions, log.joined(e for each in versions.versions for e in entries_of(each)))

    @cached_property
    def unvouched(self) -> list[Entry]:
        """Entries of the file that MLflow lacks, and that nobody here wrote or ever saw in MLflow.

        Somebody may have added or changed them by hand: they are not to become MLflow's by that. One that a genuine
        one follows, which names its SHA-256, was there before that.
        """
        genuine = known_here(self.workspace) | self._delivered
        for entry in reversed(self.log.entries):  # each stands after those that it follows
            if entry.digest in genuine:
                genuine.update(entry.follows)
        return [each for each in self.log.entries if self.is_own(each) and each.digest not in genuine]

    @property
    def lacking(self) -> list[Entry]:
        """Entries of which MLflow has no copy, or another text, of versions that are there."""
        own = ((entry, self.left(entry.champion)) for entry in self.log.entries if self.is_own(entry))
        return [entry for entry, version in own if version and version.tags.get(entry.tag) != entry.text]

    @cached_property
    def _copies(self) -> list[Entry]:
        """MLflow's."""
        return [entry for version in self.versions.versions for entry in entries_of(version)]

    @property
    def _delivered(self) -> set[str]:
        return {entry.digest for entry in self._copies}

    def remember(self, *entries: Entry) -> None:
        """That these are genuine, and all that MLflow has."""
        remember(self.workspace, self._delivered | {entry.digest for entry in entries})

    def again(self) -> "Standing":
        return Standing.read(self.workspace, self.store, self.versions.model_name)

    @property
    def champion(self) -> Version | None:
        return next((each for each in self.versions.versions if CHAMPION in each.aliases), None)

    def left(self, number: int) -> Version | None:
        """A version, if it was not deleted."""
        return self._by_number.get(number)

    @cached_property
    def _by_number(self) -> dict[int, Version]:
        return {each.version: each for each in self.versions.versions}

    def version(self, wanted: str) -> Version:
        """By number or alias.

        Raises:
            UserError: there is none.
        """
        return self.versions.find(wanted, "nothing was promoted")

    def is_own(self, entry: Entry) -> bool:
        """Whether an entry is of these versions: the log may come from a clone with a registry of its own."""
        return entry.registry in ("", self.versions.registry) and self._is_of_these(entry, bool(entry.registry))

    def may_be_own(self, entry: Entry) -> bool:
        """Whether it is of such versions, in whichever registry: one that was moved is another by its time."""
        return self._is_of_these(entry, is_of_this_registry=False)

    def _is_of_these(self, entry: Entry, is_of_this_registry: bool) -> bool:
        named = [(entry.champion, entry.champion_sha256)]
        named += [] if entry.before is None else [(entry.before, entry.before_sha256)]
        were_here = (self._was_here(*each, is_of_this_registry) for each in named)
        return entry.model == self.versions.model_name and all(were_here)

    def _was_here(self, number: int, weights: str, is_of_this_registry: bool) -> bool:
        """A version that is not there was deleted, of this registry or by its number: MLflow gives none twice."""
        version = self.left(number)
        if version:
            return weights_of(version) == weights
        return is_of_this_registry or number < max(self._by_number, default=0)

    @cached_property
    def _before(self) -> dict[str, list[Entry]]:
        """Of each of these versions' entries those that it follows; entries of others may stand between them."""
        before, led_to = dict[str, list[Entry]](), dict[str, list[Entry]]()
        for entry in self.log.entries:
            followed = {each.digest: each for digest in entry.follows for each in led_to[digest]}
            led_to[entry.digest] = [*followed.values()]
            if self.is_own(entry):
                before[entry.digest], led_to[entry.digest] = led_to[entry.digest], [entry]
        return before

    @cached_property
    def ends(self) -> list[Entry]:
        """Of these versions' entries those that none of them follows yet: what is written next follows these.

        Not another registry's, of which nobody here knows whether they are genuine: it would vouch for them.
        """
        followed = {entry.digest for entries in self._before.values() for entry in entries}
        return [each for each in self.log.entries if each.digest in self._before and each.digest not in followed]

    @cached_property
    def exchanged(self) -> dict[int, set[str]]:
        """Versions whose tag with the SHA-256 of their weights is not that which they were champion with → what it was.

        By MLflow's copies: lines of the file may be of a copy of this registry, which gave the same numbers since.
        """
        were = dict[int, set[str]]()
        for entry in self._copies:
            if entry.registry == self.versions.registry:
                were.setdefault(entry.champion, set()).add(entry.champion_sha256)
                if entry.before is not None and entry.before_sha256:
                    were.setdefault(entry.before, set()).add(entry.before_sha256)
        now = {number: {weights_of(version)} for number, version in self._by_number.items()}
        return {number: were[number] - now[number] for number in sorted(now) if were.get(number, set()) - now[number]}

    @property
    def ever_champion(self) -> set[int]:
        """Versions that were it by any entry of these, of this registry or of one that was moved.

        Of whichever weights, though what it follows is nowhere, and of tags that nobody here can read: who deletes
        spares them.
        """
        entries = [*self.log.entries, *self.log.strays, *self._copies]
        own = [each for each in entries if each.registry in ("", self.versions.registry) or self.may_be_own(each)]
        named = {number for entry in own for number in (entry.before, entry.champion) if number is not None}
        tagged = {
            number
            for version in self.versions.versions
            for tag, text in version.tags.items()
            if tag.startswith(TAG)
            for number in (version.version, before_in(text))
            if number is not None
        }
        return named | tagged | set(self.line)

    @property
    def _last(self) -> Entry | None:
        """The entry that nothing follows; of several, which were written at once, the one that the alias names."""
        ends = self.ends
        number = self.champion.version if self.champion else None
        return next((each for each in ends if each.champion == number), ends[-1] if ends else None)

    @property
    def line(self) -> list[int]:
        """The champions by the log, each after the one before it, the present one last, without what was taken back.

        Before anything is written that is the first version, which is champion without a rule. Some may be deleted.
        """
        path, entry = list[Entry](), self._last
        while entry:
            path.append(entry)
            before = self._before[entry.digest]
            entry = next((each for each in before if each.champion == path[-1].before), before[-1] if before else None)
        first = path[-1].before if path else _FIRST
        line = [] if first is None else [first]
        for entry in reversed(path):
            if entry.action != "promote" and entry.champion in line[:-1]:
                del line[len(line) - line[::-1].index(entry.champion) :]
            elif line[-1:] != [entry.champion]:
                line.append(entry.champion)
        return line

    @property
    def lost(self) -> int | None:
        """The champion by the log, where MLflow has none; None: it has one, or none was written down."""
        return self._last.champion if self._last and self.champion is None else None

    @property
    def unwritten(self) -> str | None:
        """How the champion differs from what the log says last, in words; None: it does not."""
        if self.champion is None or self.line[-1] == self.champion.version:
            return None
        is_now, last = f"the champion is version {self.champion.version}", f"version {self.line[-1]}"
        return (
            f"{is_now}, by the log's last line {last}"
            if self._last
            else f"{is_now}; nothing is written yet, and the first was {last}"
        )


def entries_of(version: Version) -> Iterator[Entry]:
    """Those that MLflow has with a version; what is none, or was changed, is left to `history --verify`."""
    for tag, text in version.tags.items():
        if tag.startswith(TAG):
            try:
                entry = Entry.parse(text)
            except ValueError:
                continue
            if entry.tag == tag and (entry.model, entry.champion) == (version.name, version.version):
                yield entry


def weights_of(version: Version | None) -> str:
    """SHA-256; "" of none."""
    return version.tags.get(WEIGHTS_TAG, "") if version else ""


@contextmanager
def answered(store: TrackingStore, what: str, remedy: str) -> Iterator[None]:
    """What is asked of MLflow.

    Args:
        what: is then the matter: "the champion was not moved".

    Raises:
        UserError: it does not answer, or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        problem = Problem(f"{store.uri}", f"{what}: {reason(error)}", remedy)
        raise UserError("MLflow does not do what it is asked", [problem]) from error
