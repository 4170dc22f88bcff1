"""The champion is moved, and that is written down: in the file, and in MLflow.

The alias moves first, then the file is written, then MLflow gets its copy. What a kill between them leaves is found by
the next command, which writes it down: as it was to be written, or, where that is not known, as moved by other means.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.history import is_detached
from xtts_finetune.promotion.standing import Standing, answered, weights_of
from xtts_finetune.promotion.verification import in_doubt
from xtts_finetune.tracking.environment import user
from xtts_finetune.tracking.promotions import TITLE as LOG_TITLE
from xtts_finetune.tracking.promotions import Action, Entry, Log, Rule, keep_intent, kept_intent
from xtts_finetune.tracking.registry import Version, find_champion, move_champion

_BROKEN_OFF = "(found later: the command was killed before it had written this down, if nobody moved it there since)"


def move(standing: Standing, action: Action, to: Version, rules: list[Rule], forced: bool, why: str) -> Entry:
    """Make a version champion, and write down that it is.

    Args:
        standing: by which it was decided, perhaps minutes ago.

    Raises:
        UserError: another became champion since, MLflow does not answer, or the log was damaged.
    """
    now = caught_up(_unchanged(standing, to))
    before = now.champion.version if now.champion else None
    entry = _entry(now, action, before, to, rules, forced, why)
    now = replace(now, log=now.log.appended(entry))
    with _written(now, to):
        now.remember(entry)
        with (
            _intended(now, entry, to),
            now.log.written(),  # its room is had before the champion moves
            answered(now.store, "the champion was not moved, as far as is known", "look: xtts-finetune history"),
        ):
            move_champion(now.store, to)
    _deliver(now, to)
    return entry


@contextmanager
def _written(standing: Standing, to: Version | None = None) -> Iterator[None]:
    """What is written of the log.

    Args:
        to: became champion meanwhile, perhaps.

    Raises:
        UserError: it cannot be, and what is so by now.
    """
    try:
        yield
    except (OSError, UserError) as error:
        is_of_the_log = isinstance(error, OSError) or error.title == LOG_TITLE  # as git has left its marks in it
        is_moved = _is_champion(standing, to) if to and is_of_the_log else False
        if is_moved is False and (isinstance(error, UserError) or is_disk_full(error)):
            raise
        where = str(getattr(error, "filename", None) or standing.log.file)
        if to is None or is_moved is False:
            problem = Problem(where, str(error), "mend that, then type it again: nothing was moved")
            raise UserError("the promotion log cannot be written", [problem]) from error
        if is_moved is None:
            what = (
                f"could not be written, and MLflow does not say whether version {to.version} became champion: {error}"
            )
            problem = Problem(where, what, "xtts-finetune history says so, once both are there again")
            raise UserError("moved, perhaps, and not written down", [problem]) from error
        what = f"version {to.version} is champion now, and that could not be written down: {error}"
        remedy = f"xtts-finetune promote {to.version} writes it down, once that is mended"
        raise UserError("moved, and not written down", [Problem(where, what, remedy)]) from error


@contextmanager
def _intended(standing: Standing, entry: Entry, to: Version) -> Iterator[None]:
    """Keep what is to be written while it is not: of a move that was refused, it would be told as one that was made.

    Where MLflow does not say whether it was refused, it stays.
    """
    keep_intent(standing.workspace, entry)
    try:
        yield
    except BaseException:
        if _is_champion(standing, to) is False:
            keep_intent(standing.workspace, None)
        raise
    keep_intent(standing.workspace, None)


def _is_champion(standing: Standing, version: Version) -> bool | None:
    """None: MLflow does not say."""
    try:
        with answered(standing.store, "", ""):
            champion = find_champion(standing.store, version.name)
    except UserError:
        return None
    return champion is not None and champion.version == version.version


def caught_up(standing: Standing) -> Standing:
    """With what was done by other means written down, and delivered, too.

    Raises:
        UserError: MLflow does not take it; or the file has entries of which nobody knows whether they are genuine.
    """
    _refuse_doubtful(standing)
    champion, found, entry = standing.champion, standing.unwritten, None
    if champion and found:
        entry = _begun(standing, champion) or _found(standing, champion, found)
        standing = replace(standing, log=standing.log.appended(entry))
    with _written(standing):
        standing.remember(*([entry] if entry else []))
        if _is_to_be_written(standing, is_found=entry is not None):
            standing.log.write()
        keep_intent(standing.workspace, None)
    _deliver(standing, champion)
    return standing


def _begun(standing: Standing, champion: Version) -> Entry | None:
    """What a command that was killed had yet to write, if that may be how the champion became it."""
    entry = kept_intent(standing.workspace)
    if entry is None or entry.champion != champion.version or not standing.is_own(entry):
        return None
    if entry.follows != [each.digest for each in standing.ends]:  # something happened since
        return None
    return entry.model_copy(update={"why": f"{entry.why} {_BROKEN_OFF}".strip()})


def _found(standing: Standing, champion: Version, how: str) -> Entry:
    why = f"{how}: moved by other means, or half-way"
    return _entry(standing, "found", standing.line[-1], champion, [], forced=False, why=why)


def _is_to_be_written(standing: Standing, is_found: bool) -> bool:
    """Whether the file lacks something; in an older commit's checkout it may, as long as nothing happens there."""
    lacks = standing.log.entries != Log.read(standing.workspace.promotions).entries
    return lacks and (is_found or not is_detached(standing.workspace))


def _refuse_doubtful(standing: Standing) -> None:
    if problems := in_doubt(standing):
        raise UserError("the promotion log does not hold", problems)


def _deliver(standing: Standing, champion: Version | None) -> None:
    """Give MLflow the entries that it lacks.

    Raises:
        UserError: it does not take them. To type it again may be wrong then: a rollback would go one version further.
    """
    remedy = "type it again"
    if champion:
        remedy = f"xtts-finetune promote {champion.version}, which is champion, makes up for it"
    with answered(standing.store, "the champion is written down here, but not in MLflow yet", remedy):
        for entry in standing.lacking:
            version = standing.left(entry.champion)
            if version:
                client, number = standing.store.client, str(version.version)
                client.set_model_version_tag(version.name, number, entry.tag, entry.text)
                version.tags[entry.tag] = entry.text


def _unchanged(standing: Standing, to: Version) -> Standing:
    """How things stand now, if that is still what was decided on.

    Raises:
        UserError: the champion is another, or the version is gone.
    """
    now = standing.again()
    before, champion = standing.champion, now.champion
    if (before and before.version) != (champion and champion.version):
        is_now = f"version {champion.version}" if champion else "none"
        problem = Problem(now.versions.model_name, f"the champion changed meanwhile: it is {is_now}", "type it again")
        raise UserError("nothing was promoted", [problem])
    if weights_of(now.left(to.version)) != weights_of(to):
        problem = Problem(f"{to.name} version {to.version}", "was deleted meanwhile", "choose another version")
        raise UserError("nothing was promoted", [problem])
    return now


def _entry(
    standing: Standing, action: Action, before: int | None, to: Version, rules: list[Rule], forced: bool, why: str
) -> Entry:
    return Entry(
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        who=_in_utf8(_who(standing.workspace)),
        action=action,
        model=standing.versions.model_name,
        before=before,
        before_sha256=weights_of(None if before is None else standing.left(before)),
        champion=to.version,
        champion_sha256=weights_of(to),
        rules=rules,
        forced=forced,
        why=_in_utf8(why),
        follows=[each.digest for each in standing.ends],
        registry=standing.versions.registry,
    )


def _in_utf8(text: str) -> str:
    """What was typed, or is a user's name, in another encoding has halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _who(workspace: Workspace) -> str:
    """As git commits here; else the user's name."""
    command = ["git", "var", "GIT_AUTHOR_IDENT"]  # Anna <anna@example.org> 1795000000 +0000
    try:
        done = subprocess.run(command, cwd=workspace.root, capture_output=True, check=False)
    except OSError:  # there is no git
        return user()
    return done.stdout.decode("utf-8", "replace").strip().rpartition(">")[0] + ">" if done.stdout else user()
