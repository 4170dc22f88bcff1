"""`xtts-finetune history --verify`: the file held against MLflow's copies of its entries."""

from collections.abc import Iterator

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.promotion.standing import Standing, entries_of, weights_of
from xtts_finetune.promotion.wording import log_name, told, unvouched
from xtts_finetune.tracking.promotions import TAG, Entry, Log
from xtts_finetune.tracking.registry import Version


def verify(standing: Standing) -> None:
    """What either has changed or lost. Versions that were deleted took their copies with them.

    Raises:
        UserError: naming every such entry.
    """
    problems = [*_not_here(standing.workspace, standing), *_strays(standing)]
    if found := standing.unwritten:
        assert standing.champion, "who differs from the log is there"
        remedy = f"xtts-finetune promote {standing.champion.version} writes it down, if that is as it should be"
        problems.append(Problem(log_name(standing.workspace), found, remedy))
    for version in standing.versions.versions:
        problems += _of(standing, version)
    if problems:
        raise UserError("the promotion log does not hold", problems)


def _not_here(workspace: Workspace, standing: Standing) -> Iterator[Problem]:
    here = {entry.digest for entry in Log.read(workspace.promotions).entries}
    for entry in standing.log.entries:
        if entry.digest not in here:
            remedy = (
                "git pull, if another clone wrote it, or go back to the branch, if this is an older commit; else "
                f"somebody took it out: git log -p -- {log_name(workspace)}; the next promote puts it there again"
            )
            yield Problem(log_name(workspace), f"lacks an entry that MLflow has: {told(entry)}", remedy)


def _strays(standing: Standing) -> Iterator[Problem]:
    for entry in standing.log.strays:
        where = f"{entry.model} version {entry.champion}: tag {entry.tag}"
        what = f"follows an entry that neither {log_name(standing.workspace)} nor MLflow has: {told(entry)}"
        remedy = "git pull: a version that was deleted in MLflow took its entries with it; else nobody promoted so"
        yield Problem(where, what, f"{remedy}, and the tag can go")


def _of(standing: Standing, version: Version) -> Iterator[Problem]:
    """Of one version's tags: those that differ, lack, or are no entry."""
    name = log_name(standing.workspace)
    is_it = (version.name, version.version, weights_of(version))
    of_it = [each for each in standing.log.entries if (each.model, each.champion, each.champion_sha256) == is_it]
    known = {entry.tag: entry.text for entry in of_it}
    expected = {entry.tag for entry in of_it if standing.is_own(entry)}
    strays = {entry.tag for entry in standing.log.strays} & {entry.tag for entry in entries_of(version)}
    tags = {tag: text for tag, text in version.tags.items() if tag.startswith(TAG) and tag not in strays}
    for tag in sorted(expected | tags.keys()):
        where = f"{standing.store.uri}: {version.name} version {version.version}: tag {tag}"
        if tag not in known:
            yield Problem(where, "is no entry of the log", "delete the tag")
        elif tags.get(tag) != known[tag]:
            if tag in tags:
                yield Problem(where, "is not as it was written", f"somebody changed it: {name} has it as it was")
            elif (entry := _named(of_it, tag)) in standing.unvouched:
                yield unvouched(standing.workspace, entry)
            else:
                remedy = "a command was killed before, or somebody deleted it: the next promote or rollback brings it"
                yield Problem(where, "is not there", remedy)


def _named(entries: list[Entry], tag: str) -> Entry:
    return next(entry for entry in entries if entry.tag == tag)
