"""`xtts-finetune promote`, `rollback` and `history`: who is champion, and why."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from xtts_finetune.checkpoints.lock import AGAIN, held_alone
from xtts_finetune.core.disk import free_bytes, full_disk_raises
from xtts_finetune.core.disk import shown as shown_bytes
from xtts_finetune.core.errors import DiskFull, Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.dvcio.history import is_detached
from xtts_finetune.promotion.bundles import refuse_incomplete
from xtts_finetune.promotion.moving import caught_up, move
from xtts_finetune.promotion.standing import Standing
from xtts_finetune.promotion.verification import in_doubt, verify
from xtts_finetune.promotion.wording import log_name, told
from xtts_finetune.tracking.connection import open_store
from xtts_finetune.tracking.promotions import DIGITS, Entry, Log, Rule
from xtts_finetune.tracking.registry import CANDIDATE, CHAMPION, Version
from xtts_finetune.tracking.versions import NotWhole, shown

_TITLE = "nothing was promoted"
_NOTHING_BEFORE = "nothing to go back to"
_LONGEST_WHY = 2000  # characters: it goes into a tag of MLflow's, too


@dataclass(frozen=True)
class Request:
    """What was typed."""

    version: str | None  # a number or an alias; None: candidate
    force: bool
    why: str


def promote_lines(workspace: Workspace, request: Request) -> Iterator[str]:
    """Hold a version against the champion by the rules of params.yaml, and make it champion where it passes all.

    Raises:
        UserError: it does not pass, and that was not forced; there is no such version; another became champion
            meanwhile; MLflow or the log cannot be used.
    """
    if request.force and not request.why.strip():
        raise UserError(_TITLE, [Problem("--force", "needs a reason, which is written down", 'add --why "…"')])
    _refuse_long(_TITLE, request.why)
    with _alone(workspace):
        params = load_params(workspace.params)
        standing = yield from _caught_up(_standing(workspace, params))
        version = standing.version(CANDIDATE if request.version is None else request.version)
        if standing.champion and standing.champion.version == version.version:
            yield f"{shown(version)}: is the champion already"
            return
        refuse_incomplete(standing.versions, version)
        rules = yield from _examined(standing, params, version, hears_all=request.force)
        failed = [rule.name for rule in rules if not rule.passed]
        if failed and not request.force:
            raise _refused(version, failed)
        entry = move(standing, "promote", version, rules, forced=bool(failed), why=request.why)
        yield from _done(workspace, entry)


def rollback_lines(workspace: Workspace, why: str) -> Iterator[str]:
    """Make the version champion that was it before, by the log; one that was deleted since is passed over.

    Raises:
        UserError: there was none, or none is left; MLflow or the log cannot be used.
    """
    _refuse_long("the champion was not moved", why)
    with _alone(workspace):
        standing = _standing(workspace, load_params(workspace.params))
        if not standing.versions.versions:
            standing.versions.find(CHAMPION, _NOTHING_BEFORE)  # raises: it says what is to be done first
        is_back = bool(standing.unwritten and standing.champion and standing.champion.version in standing.line[:-1])
        standing = yield from _caught_up(standing)
        if is_back:  # by a rollback that was killed, or by hand
            yield "it was champion before; to go further back, type it again"
            return
        line, champion = standing.line, standing.champion
        if champion is None:
            yield "there is no champion"
        elif line[-1] == champion.version:
            line = line[:-1]
        for number in reversed(line):
            gone = _gone(standing, number)
            if not gone:
                to = standing.version(str(number))
                yield from _done(workspace, move(standing, "rollback", to, [], forced=False, why=why))
                return
            yield f"version {number}, champion before, {gone}"
        what = "the log knows no champion before this one" + (" that is left" if line else "")
        remedy = "xtts-finetune promote VERSION makes another version champion"
        raise UserError(_NOTHING_BEFORE, [Problem(log_name(workspace), what, remedy)])


def _caught_up(standing: Standing) -> Generator[str, None, Standing]:
    """With what was done by other means written down; the lines tell of it."""
    found = standing.unwritten
    standing = caught_up(standing)
    if found:
        yield from _done(standing.workspace, standing.log.entries[-1])
    return standing


def _gone(standing: Standing, number: int) -> str:
    """Why there is no going back to a version, in words; "": there is."""
    version = standing.left(number)
    if version is None:
        return "was deleted"
    try:
        refuse_incomplete(standing.versions, version)
    except NotWhole as error:
        return f"is not whole: {error.problems[0].what}"
    return ""


def vouch_lines(workspace: Workspace, digest: str) -> Iterator[str]:
    """Take an entry of the file for genuine that MLflow never had, so that the next command brings it there.

    Raises:
        UserError: there is none of that digest to answer for; or MLflow does not answer.
    """
    with _alone(workspace):
        standing = _standing(workspace, load_params(workspace.params))
        wanted = digest if len(digest) >= DIGITS else "too few"
        entries = [entry for entry in standing.unvouched if entry.digest.startswith(wanted)]
        if not entries:
            what = f"{digest}: of no such entry is it asked whether it is genuine"
            raise UserError("nothing to answer for", [Problem("--vouch", what, "xtts-finetune history --verify")])
        entries = _with_those_before(standing.unvouched, entries)
        standing.remember(*entries)
        for entry in entries:
            there = "brought to MLflow by the next promote or rollback"
            if standing.left(entry.champion) is None:
                there = "here alone, as its version was deleted; other clones take it when a line of theirs follows it"
            yield f"taken for genuine, and {there}: {told(entry)}"


def _with_those_before(entries: list[Entry], wanted: list[Entry]) -> list[Entry]:
    """Those that are wanted, and of the same those that they follow: they are taken for genuine with them."""
    digests = {entry.digest for entry in wanted}
    for entry in reversed(entries):
        if entry.digest in digests:
            digests.update(entry.follows)
    return [entry for entry in entries if entry.digest in digests]


def history_lines(workspace: Workspace, verified: bool) -> Iterator[str]:
    """Every promotion, the newest last; without MLflow, those that the file has.

    Args:
        verified: hold every entry against MLflow's copy of it.

    Raises:
        UserError: an entry was changed, or is gone; or MLflow does not answer, and is to be verified.
    """
    params = load_params(workspace.params)
    log = Log.read(workspace.promotions)
    try:
        _refuse_without_database(workspace, params)
        standing = _standing(workspace, params)
    except UserError as error:
        if verified:
            raise
        yield from map(told, log.entries)
        yield f"MLflow is not known: {error.problems[0].where} {error.problems[0].what}"
        return
    champion = standing.champion
    if not standing.log.entries:
        yield "nothing was promoted yet" + (f"; the champion is {shown(champion)}" if champion else "")
    doubtful = standing.unvouched
    for entry in standing.log.entries:
        doubt = " (NOT KNOWN to be genuine: --verify says why)" if entry in doubtful else ""
        yield told(entry) + ("" if standing.is_own(entry) else " (of versions that are not in this registry)") + doubt
    if (found := standing.unwritten) and not in_doubt(standing):
        yield f"not written down: {found}; the next promote or rollback does so"
    if standing.lost is not None:
        yield f"there is no champion in MLflow; by the last line it is version {standing.lost}"
    if verified:
        verify(standing)
        with suppress(OSError):  # who may only read has held it against MLflow all the same
            standing.remember()
        yield from _verified(standing)


def _refuse_without_database(workspace: Workspace, params: Params) -> None:
    """Who reads makes none."""
    if params.tracking.uri is None and not os.path.isfile(workspace.tracking_db):  # also where nobody may look
        remedy = "bring mlruns/ back, or let dvc repro register a version in a new one"
        raise UserError("MLflow is not known", [Problem(str(workspace.tracking_db), "is not there", remedy)])


def _verified(standing: Standing) -> Iterator[str]:
    """What was held against what."""
    own = [entry for entry in standing.log.entries if standing.is_own(entry)]
    there = sum(standing.left(entry.champion) is not None for entry in own)
    if there or not standing.log.entries:
        yield f"{there} {'entry: it' if there == 1 else 'entries: each'} is as it was written, here and in MLflow"
    if gone := len(own) - there:
        yield (
            f"{gone} of versions that were deleted, and MLflow's copies with them: as written in this workspace, or as "
            "the SHA-256 in those after says"
        )
    if others := len(standing.log.entries) - len(own):
        yield f"{others} of other registries: not held against MLflow; each has the SHA-256 that it says"


def _standing(workspace: Workspace, params: Params) -> Standing:
    return Standing.read(workspace, open_store(workspace, params.tracking), params.registry.model_name)


def _examined(
    standing: Standing, params: Params, version: Version, hears_all: bool
) -> Generator[str, None, list[Rule]]:
    """What the rules say of a version; the lines tell it.

    Args:
        hears_all: also one that cannot pass any more.

    Where no version is champion, as when it was deleted, it is held against the last that was and is left.
    """
    from xtts_finetune.promotion.examination import examine, fails_already
    from xtts_finetune.promotion.gate import not_measured, table

    last = next((left for number in reversed(standing.line) if (left := standing.left(number))), None)
    champion = standing.champion or last
    if standing.champion is None:
        yield "there is no champion to hold it against" + (
            f"; version {last.version} was it, by the log" if last else ""
        )
    if champion is None:
        others = [each for each in standing.versions.versions if each.version != version.version]
        rules = [not_measured("champion", "no version is left that was champion")] if others else []
        yield from table(rules) if rules else ()
        return rules
    if champion.version == version.version:
        return []
    yield f"{version.name} version {version.version} against the champion, version {champion.version}"
    if params.promotion.sentences and not hears_all and fails_already(params, version, champion):
        yield "by its figures it does not pass: neither is heard (with --force both are)"
        params = params.model_copy(update={"promotion": params.promotion.model_copy(update={"sentences": 0})})
    if params.promotion.sentences:
        yield f"up to {params.promotion.sentences} sentences of each are heard, and of the base: some minutes"
    found = examine(standing.workspace, params, standing.versions, version, champion)
    yield f"figures: {found.how}"
    yield from table(found.rules)
    if found.beside_base:
        yield ""
        yield "beside the base, untrained, in the same voice; of this the likeness of the voice alone is asked for"
        yield from table(found.beside_base, "base")
    yield from found.doubts
    return found.rules


def _done(workspace: Workspace, entry: Entry) -> Iterator[str]:
    yield told(entry)
    on_a_branch = "; HEAD is detached: git switch --create BRANCH first" if is_detached(workspace) else ""
    yield f"written down in {log_name(workspace)}: commit it{on_a_branch}"


def _refused(version: Version, failed: list[str]) -> UserError:
    remedy = "listen to both; to make it champion all the same: "
    remedy += f'xtts-finetune promote {version.version} --force --why "…", which is written down'
    where = f"{version.name} version {version.version}"
    return UserError(_TITLE, [Problem(where, f"does not pass: {', '.join(failed)}", remedy)])


def _refuse_long(title: str, why: str) -> None:
    if len(why) > _LONGEST_WHY:
        what = f"has {len(why)} characters"
        raise UserError(title, [Problem("--why", what, f"say it in {_LONGEST_WHY} at the most")])


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One at a time in a checkout.

    Raises:
        UserError: another one is at it.
    """
    busy = Problem(log_name(workspace), "another promote or rollback is at work here", AGAIN)
    with held_alone(workspace.promotions_lock, "not now", busy):
        try:
            with full_disk_raises():
                yield
        except DiskFull as error:
            places = [
                each
                for each in (workspace.root, workspace.promotions.parent, workspace.promotions_lock.parent)
                if each.is_dir()
            ]
            least = min(places, key=free_bytes)
            full = f"the disk is full ({shown_bytes(free_bytes(least))} free at {least})"
            what, remedy = str(error), "type it again"
            if isinstance(error.__cause__, UserError):  # it says what is so by now
                what, remedy = error.__cause__.problems[0].what, error.__cause__.problems[0].remedy
            raise DiskFull(f"{full}: {what}; make room (xtts-finetune clean), then {remedy}") from error
