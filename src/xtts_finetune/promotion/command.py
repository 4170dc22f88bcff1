"""`xtts-finetune promote`, `rollback` and `history`: who is champion, and why.

The alias moves first, then the log is written: what a kill between the two leaves is found by the next command, and
written down as moved by other means.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import TAG, Action, Entry, Log, champions
from xtts_finetune.tracking.registry import CANDIDATE, CHAMPION, Version, move_champion
from xtts_finetune.tracking.versions import Versions, shown

if TYPE_CHECKING:
    from xtts_finetune.promotion.gate import Rule

_TITLE = "nothing was promoted"
_LONGEST_WHY = 2000  # characters: it goes into a tag of MLflow's, too


@dataclass(frozen=True)
class Request:
    """What was typed."""

    version: str | None  # a number or an alias; None: candidate
    force: bool
    why: str


class _Registry:
    """The versions of the model, and its log, while nobody else of this checkout moves its champion."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.params = workspace, load_params(workspace.params)
        self.store = open_store(workspace, self.params.tracking)
        self.versions = Versions.of(self.store, self.params.registry.model_name)
        known = (entry for version in self.versions.versions for entry in _entries(version))
        self.log = Log.read(workspace.promotions).joined(known)

    @property
    def champion(self) -> Version | None:
        return self.versions.get(CHAMPION)

    def version(self, wanted: str) -> Version:
        """By number or alias.

        Raises:
            UserError: there is none.
        """
        version = self.versions.get(wanted)
        if version:
            return version
        known = "".join(f"\n        {shown(each)}" for each in self.versions.versions)
        what = f"there is no such version; there is:{known}" if known else "no version is registered yet"
        remedy = "choose one of them" if known else "dvc repro: its last stage, evaluate, registers the best model"
        raise UserError(_TITLE, [Problem(f"{self.versions.model_name}: {wanted}", what, remedy)])

    def move(self, action: Action, to: Version, rules: list["Rule"], forced: bool, why: str) -> Entry:
        """Make a version champion, and write down that it is."""
        self._write_what_was_found()
        before = self.champion
        move_champion(self.store, to)
        return self._write(action, before, to, rules, forced, why)

    @property
    def line(self) -> list[int]:
        """The champions by the log, one after the other, as far as they are this registry's and still there."""
        return champions(entry for entry in self.log.entries if self.has(entry))

    def has(self, entry: Entry) -> bool:
        """Whether an entry is of these versions: the log may come from a clone with a registry of its own."""
        weights = {version.version: version.tags.get(WEIGHTS_TAG) for version in self.versions.versions}
        before = entry.before is None or weights.get(entry.before) == entry.before_sha256
        return (
            entry.model == self.versions.model_name and before and weights.get(entry.champion) == entry.champion_sha256
        )

    def unwritten(self) -> str | None:
        """How the champion differs from what the log says last, in words; None: it does not."""
        champion, line = self.champion, self.line
        if champion is None or not line or line[-1] == champion.version:
            return None
        return f"the champion is version {champion.version}, the log's last is version {line[-1]}"

    def _write_what_was_found(self) -> None:
        champion = self.champion
        if champion and (why := self.unwritten()):
            before = self.versions.get(str(self.line[-1]))
            self._write("found", before, champion, [], forced=False, why=f"{why}: moved by other means, or half-way")

    def _deliver(self) -> None:
        """Give MLflow the entries that it lacks."""
        for version in self.versions.versions:
            own = (entry for entry in self.log.entries if entry.champion == version.version and self.has(entry))
            for entry in own:
                if entry.tag not in version.tags:
                    self.store.client.set_model_version_tag(version.name, str(version.version), entry.tag, entry.text)
                    version.tags[entry.tag] = entry.text

    def _write(
        self, action: Action, before: Version | None, to: Version, rules: list["Rule"], forced: bool, why: str
    ) -> Entry:
        entry = Entry(
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            who=_who(self.workspace),
            action=action,
            model=self.versions.model_name,
            before=before.version if before else None,
            before_sha256=_weights(before),
            champion=to.version,
            champion_sha256=_weights(to),
            rules=[_plain(asdict(rule)) for rule in rules],
            forced=forced,
            why=why,
            previous=self.log.last,
        )
        self.log = self.log.appended(entry)
        self.log.write()
        self._deliver()
        return entry


def promote_lines(workspace: Workspace, request: Request) -> Iterator[str]:
    """Hold a version against the champion by the rules of params.yaml, and make it champion where it passes all.

    Raises:
        UserError: it does not pass, and that was not forced; there is no such version; MLflow or the log is damaged.
    """
    _refuse_wrong_words(request)
    with _alone(workspace):
        registry = _Registry(workspace)
        version = registry.version(request.version or CANDIDATE)
        champion = registry.champion
        if champion and champion.version == version.version:
            yield f"{shown(version)}: is the champion already"
            return
        rules: list[Rule] = []
        if champion is None:
            yield "there is no champion to hold it against"
        else:
            yield f"{version.name} version {version.version} against the champion, version {champion.version}"
            rules, how = _examined(workspace, registry, version, champion)
            yield f"figures: {how}"
            yield from _table(rules)
        failed = [rule for rule in rules if not rule.passed]
        if failed and not request.force:
            raise _refused(version, failed)
        entry = registry.move("promote", version, rules, forced=bool(failed), why=request.why)
        yield _told(entry)
        yield f"written down in {_name(workspace)}: commit it"


def rollback_lines(workspace: Workspace, why: str) -> Iterator[str]:
    """Make the version champion that was it before, by the log.

    Raises:
        UserError: there was none, or it is gone; MLflow or the log cannot be used.
    """
    with _alone(workspace):
        registry = _Registry(workspace)
        if found := registry.unwritten():
            yield found
        line, champion = registry.line, registry.champion
        if champion and line[-1:] != [champion.version]:
            line.append(champion.version)
        if len(line) < 2:
            what = "the log knows no champion before this one"
            remedy = "xtts-finetune promote VERSION makes another version champion"
            raise UserError("nothing to go back to", [Problem(_name(workspace), what, remedy)])
        entry = registry.move("rollback", registry.version(str(line[-2])), [], forced=False, why=why)
        yield _told(entry)
        yield f"written down in {_name(workspace)}: commit it"


def history_lines(workspace: Workspace, verify: bool) -> Iterator[str]:
    """Every promotion, the newest last.

    Args:
        verify: hold every entry against MLflow's copy of it.

    Raises:
        UserError: an entry was changed, or is gone.
    """
    registry = _Registry(workspace)
    if not registry.log.entries:
        champion = registry.champion
        yield f"nothing was promoted yet; the champion is {shown(champion)}" if champion else "nothing was promoted yet"
    for entry in registry.log.entries:
        yield _told(entry) + ("" if registry.has(entry) else " (of versions that are not in this registry)")
    if found := registry.unwritten():
        yield f"not written down: {found}; the next promote or rollback does so"
    if verify:
        _verify(workspace, registry)
        yield f"{len(registry.log.entries)} entries: each is as it was written, here and in MLflow"


def _verify(workspace: Workspace, registry: _Registry) -> None:
    """Hold the file against MLflow: what either has changed or lost.

    Raises:
        UserError: naming every such entry.
    """
    here = {entry.digest for entry in Log.read(workspace.promotions).entries}
    problems = []
    for entry in registry.log.entries:
        if entry.digest not in here:
            what = f"lacks an entry that MLflow has: {_told(entry)}"
            remedy = "pull it, if another clone wrote it; else somebody took it out: git log -p -- "
            problems.append(Problem(_name(workspace), what, remedy + _name(workspace)))
    for version in registry.versions.versions:
        where = f"{registry.store.uri}: {version.name} version {version.version}"
        own = (entry for entry in registry.log.entries if entry.champion == version.version and registry.has(entry))
        told = {entry.tag: entry for entry in own}
        for tag, entry in told.items():
            if version.tags.get(tag) != entry.text:
                what = "is not as it was written" if tag in version.tags else "is not there"
                remedy = f"somebody changed it: {_name(workspace)} has it as it was written"
                problems.append(Problem(f"{where}: tag {tag}", what, remedy))
        for tag in version.tags.keys() - told.keys():
            if tag.startswith(TAG):
                problems.append(Problem(f"{where}: tag {tag}", "is no entry of the log", "delete the tag"))
    if problems:
        raise UserError("the promotion log does not hold", problems)


def _entries(version: Version) -> Iterator[Entry]:
    """Those that MLflow has with a version; what is none, or was changed, is left to `history --verify`."""
    for tag, text in version.tags.items():
        if tag.startswith(TAG):
            try:
                entry = Entry.parse(text)
            except ValueError:
                continue
            if entry.tag == tag and (entry.model, entry.champion) == (version.name, version.version):
                yield entry


def _examined(
    workspace: Workspace, registry: _Registry, version: Version, champion: Version
) -> tuple[list["Rule"], str]:
    """What the gate finds, and where its figures come from."""
    from xtts_finetune.promotion.figures import NotComparable, compared
    from xtts_finetune.promotion.gate import loss_rules, not_measured

    params: Params = registry.params
    try:
        found = compared(workspace, params, registry.versions, version, champion)
        rules, how = loss_rules(found.candidate, found.champion, params.promotion), found.how
    except NotComparable as reason:
        rules, how = [not_measured(name, str(reason)) for name in ("eval Mel CE", "eval Text CE")], "none"
    if params.promotion.sentences:
        from xtts_finetune.promotion.hearing import heard

        rules += heard(workspace, params, registry.versions, version, champion)
    return rules, how


def _table(rules: list["Rule"]) -> Iterator[str]:
    from xtts_finetune.promotion.gate import table

    return table(rules)


def _refused(version: Version, failed: list["Rule"]) -> UserError:
    remedy = "listen to both; to make it champion all the same: "
    remedy += f'xtts-finetune promote {version.version} --force --why "…", which is written down'
    where = f"{version.name} version {version.version}"
    return UserError(_TITLE, [Problem(where, f"does not pass: {', '.join(rule.name for rule in failed)}", remedy)])


def _told(entry: Entry) -> str:
    """An entry in a line."""
    before = f"version {entry.before}" if entry.before is not None else "none"
    verb = {"promote": "promoted", "rollback": "went back", "found": "found"}[entry.action]
    mel = next((rule for rule in entry.rules if rule["name"] == "eval Mel CE" and rule["candidate"] is not None), None)
    figures = f", eval Mel CE {mel['champion']:.3f} → {mel['candidate']:.3f}" if mel else ""
    forced = f", FORCED past {', '.join(rule['name'] for rule in entry.rules if not rule['passed'])}"
    why = f': "{entry.why}"' if entry.why else ""
    text = f"{entry.time}  {verb}: champion {before} → version {entry.champion}{figures}"
    text += f"{forced if entry.forced else ''}, by {entry.who}{why}"
    return text if text.isprintable() else repr(text)


def _refuse_wrong_words(request: Request) -> None:
    if request.force and not request.why.strip():
        raise UserError(_TITLE, [Problem("--force", "needs a reason, which is written down", 'add --why "…"')])
    if len(request.why) > _LONGEST_WHY:
        what = f"has {len(request.why)} characters"
        raise UserError(_TITLE, [Problem("--why", what, f"say it in {_LONGEST_WHY} at the most")])


def _weights(version: Version | None) -> str:
    return version.tags.get(WEIGHTS_TAG, "") if version else ""


def _name(workspace: Workspace) -> str:
    return workspace.promotions.relative_to(workspace.root).as_posix()


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One at a time in a checkout.

    Raises:
        UserError: another one is at it.
    """
    workspace.promotions_lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.promotions_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        what, remedy = "another promote or rollback is at work here", "wait for it, then type this again"
        raise UserError("not now", [Problem(_name(workspace), what, remedy)]) from None
    try:
        yield
    finally:
        lock.release()


def _who(workspace: Workspace) -> str:
    """As git commits here; else the user's name."""
    told = []
    for field in ("name", "email"):
        command = ["git", "config", "--get", f"user.{field}"]
        try:
            done = subprocess.run(command, cwd=workspace.root, capture_output=True, encoding="utf-8", check=False)
        except OSError:
            break
        told.append(done.stdout.strip())
    name, email = (*told, "", "")[:2]
    return f"{name} <{email}>" if name and email else name or email or getuser()


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: an entry that was read has the digest of the one that was written."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in rule.items()}
