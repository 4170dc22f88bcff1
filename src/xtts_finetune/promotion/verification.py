"""`xtts-finetune history --verify`: the file held against MLflow's copies of its entries."""

from collections.abc import Iterator

from xtts_finetune.core.commands import printable
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.promotion.standing import Standing, entries_of, weights_of
from xtts_finetune.promotion.wording import log_name, told, unvouched
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import DIGITS, OF_A_LATER, TAG, Entry, Log, digest_of_a_later
from xtts_finetune.tracking.registry import Version


def verify(standing: Standing) -> None:
    """What either has changed or lost. Versions that were deleted took their copies with them.

    Raises:
        UserError: naming every such entry.
    """
    doubtful = [*doubted(standing)]
    problems = [*_nothing_there(standing), *doubtful, *_not_here(standing.workspace, standing), *_strays(standing)]
    for version in standing.versions.versions:
        problems += _of(standing, version)
    problems += [*unreadable(standing), *exchanged(standing)]
    problems += [] if in_doubt(standing) else _champion(standing)
    if problems:
        raise UserError("the promotion log does not hold", problems)


def _nothing_there(standing: Standing) -> Iterator[Problem]:
    if standing.log.entries and not standing.versions.versions:
        what = f"has no version of {standing.versions.model_name}: no entry can be held against it"
        remedy = "see whether tracking.uri and registry.model_name are as they were, and mlruns/ is where it was"
        yield Problem(standing.store.uri, what, remedy)


def _champion(standing: Standing) -> Iterator[Problem]:
    """Who is not the one that was written down last."""
    name = log_name(standing.workspace)
    if (found := standing.unwritten) and standing.champion:
        remedy = f"xtts-finetune promote {standing.champion.version} writes it down, if that is as it should be"
        yield Problem(name, found, remedy)
    if standing.lost is not None:
        is_left = standing.left(standing.lost) is not None
        what = f"by its last line version {standing.lost} is champion; in MLflow none is"
        what += "" if is_left else ", and that version was deleted"
        remedy = f"xtts-finetune promote {standing.lost if is_left else 'VERSION'} makes one champion"
        yield Problem(name, what, remedy)


def in_doubt(standing: Standing) -> list[Problem]:
    """Why nobody knows who is champion by the log, the weightiest alone; nothing where it is known."""
    return [*unreadable(standing)] or [*exchanged(standing)] or [*doubted(standing)]


def doubted(standing: Standing) -> Iterator[Problem]:
    """Of entries that may have been made by hand."""
    for entry in standing.unvouched:
        yield unvouched(standing.workspace, entry, is_gone=standing.left(entry.champion) is None)


def exchanged(standing: Standing) -> Iterator[Problem]:
    """Of versions whose tag with the SHA-256 of their weights was changed."""
    for number, digests in standing.exchanged.items():
        where = f"{standing.store.uri}: {standing.versions.model_name} version {number}: tag {WEIGHTS_TAG}"
        was = printable(" or ".join(sorted(digests)))
        remedy = f"by the tags {TAG}… it was {was}: set it back, if its files are still those; nobody but you knows it "
        remedy += "better: such a tag that was made by hand can be deleted"
        yield Problem(where, "is not that of the weights which were promoted", remedy)


def unreadable(standing: Standing) -> Iterator[Problem]:
    """Of tags that are genuine, as far as their SHA-256 says, and not of this program or this name: they stay."""
    for version in standing.versions.versions:
        for tag, text in version.tags.items():
            if tag.startswith(TAG) and (of := _of_another(standing, version, tag, text)):
                where = f"{standing.store.uri}: {version.name} version {version.version}: tag {tag}"
                yield Problem(where, *of)


def _of_another(standing: Standing, version: Version, tag: str, text: str) -> tuple[str, str] | None:
    """Of another program or name: what it is, and the remedy.

    A model that was renamed is the same registry by its time; a version that MLflow copied into another model is not.
    """
    if tag == f"{TAG}{digest_of_a_later(text)[:DIGITS]}":
        return OF_A_LATER
    try:
        entry = Entry.parse(text)
    except ValueError:
        return None
    is_of_this = entry.registry == standing.versions.registry and entry.champion == version.version
    if entry.tag != tag or entry.model == version.name or not is_of_this:
        return None
    name = printable(entry.model)
    return f"is of the model {name}: was it renamed?", f"rename it back, here and as registry.model_name: {name}"


def _not_here(workspace: Workspace, standing: Standing) -> Iterator[Problem]:
    here = {entry.digest for entry in Log.read(workspace.promotions).entries}
    for entry in standing.log.entries:
        if entry.digest not in here:
            remedy = (
                "git pull, if another clone wrote it, or go back to the branch, if this is an older commit; else "
                f"somebody took it out: git log -p -- {log_name(workspace)}; on a branch the next promote puts it there"
            )
            yield Problem(log_name(workspace), f"lacks an entry that MLflow has: {told(entry)}", remedy)


def _strays(standing: Standing) -> Iterator[Problem]:
    for entry in standing.log.strays:
        where = f"{entry.model} version {entry.champion}: tag {entry.tag}"
        what = f"follows an entry that neither {log_name(standing.workspace)} nor MLflow has: {told(entry)}"
        name = log_name(standing.workspace)
        remedy = f"git pull, or git log -p -- {name}: the file had it, and is to have it again; where it never did"
        yield Problem(where, what, f"{remedy}, nobody promoted so, and the tag can go")


def _of(standing: Standing, version: Version) -> Iterator[Problem]:
    """Of one version's tags: those that differ, lack, or are no entry."""
    name = log_name(standing.workspace)
    is_it = (version.name, version.version, weights_of(version))
    of_it = [each for each in standing.log.entries if (each.model, each.champion, each.champion_sha256) == is_it]
    known = {entry.tag: entry.text for entry in of_it}
    doubtful = {entry.tag for entry in standing.unvouched}
    expected = {entry.tag for entry in of_it if standing.is_own(entry)}
    own = [*entries_of(version)]
    strays = {entry.tag for entry in standing.log.strays} & {entry.tag for entry in own}
    strays |= {entry.tag for entry in own if entry.champion_sha256 != weights_of(version)}  # told of above
    strays |= {tag for tag, text in version.tags.items() if _of_another(standing, version, tag, text)}
    tags = {tag: text for tag, text in version.tags.items() if tag.startswith(TAG) and tag not in strays}
    for tag in sorted(expected | tags.keys()):
        where = f"{standing.store.uri}: {version.name} version {version.version}: tag {tag}"
        if tag not in known:
            yield Problem(where, "is no entry of the log", "delete the tag")
        elif tags.get(tag) != known[tag]:
            if tag in tags:
                remedy = f"somebody changed it; {name} has it as it was, and the next promote brings it"
                yield Problem(where, "is not as it was written", remedy)
            elif tag not in doubtful:
                remedy = "a command was killed before, or somebody deleted it: the next promote brings it"
                yield Problem(where, "is not there", remedy)
