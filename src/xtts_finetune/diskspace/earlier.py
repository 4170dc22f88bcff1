"""What DVC's cache holds beside the workspace's own run: whose it is, run by run, and what of it can go.

What HEAD, a branch, a tag, an experiment, a stash or a commit before them names is somebody's. But the run that lies
here is the workspace's to thin out: its branch has no claim on its states, dvc.lock goes on to name what is left.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Self

from xtts_finetune.checkpoints.retention import needed, retain
from xtts_finetune.core.disk import held_bytes
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import DONE, MODEL_CARD, PHASES, WEIGHTS, Workspace, checkpoint_step
from xtts_finetune.diskspace.again import LOST, run_again
from xtts_finetune.diskspace.plan import Item, Kept, Request
from xtts_finetune.dvcio.cache import Cache, Listing, named_outs
from xtts_finetune.dvcio.history import Revision, revisions
from xtts_finetune.dvcio.outs import out_path

_RECORDINGS = "metadata.csv"  # what a folder of recordings has, and no other
_IRREPLACEABLE = "nothing can make them again (--force)"


@dataclass(frozen=True)
class Stock:
    """What DVC's cache holds, and who names it: asked once for all plans.

    Attributes:
        named: every out that the workspace names, and its object.
        objects: all of them, as they were before git was asked: none that was named since is taken for nobody's.
        revisions: what git and DVC's experiments name, of those that may name another of these than the workspace
            keeps anyway.
    """

    cache: Cache
    named: Mapping[str, str]
    objects: Set[str]
    revisions: list[Revision]

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """Raises: UserError: DVC's configuration cannot be read, or git cannot say what it names."""
        cache, named = Cache(workspace), named_outs(workspace)
        objects = cache.objects()
        states = {out_path(workspace, workspace.checkpoints(phase)) for phase in PHASES}
        kept = cache.below(oid for out, oid in named.items() if out not in states)
        digests = {oid.removesuffix(".dir") for oid in objects - kept}
        found = revisions(workspace) if digests else []
        return cls(cache, named, objects, [each for each in found if each.may_name(digests)])


class EarlierRuns:
    """The cache as a request to free room sees it."""

    def __init__(self, workspace: Workspace, request: Request, stock: Stock) -> None:
        self.workspace, self.request, self.cache = workspace, request, stock.cache
        self.named, self.objects, self.revisions = stock.named, stock.objects, stock.revisions
        self.states = {out_path(workspace, workspace.checkpoints(phase)) for phase in PHASES}
        self.models = {out_path(workspace, workspace.model(phase)) for phase in PHASES}
        self.claims: dict[str, str] = {}  # object → who names it
        for revision in self.revisions:
            for oid in self.cache.below(self._claimed(revision)):
                self.claims.setdefault(oid, revision.who)

    def parts(self, own: set[str]) -> Iterator[Item | Kept]:
        """What goes and what stays of the objects that are not the workspace's `own`."""
        others, recordings = self.objects - own, self.cache.below(self._recordings(own))
        if self.cache.is_shared and not self.request.force:
            why = f"{self.cache.folder} is not in this folder: other projects may keep theirs there (--force)"
            yield from self._kept("other objects", others, why)
            return
        verdict = retain(others, needed(self.claims), needed(dict.fromkeys(recordings, _IRREPLACEABLE)))
        yield from self._going(set(verdict.delete))
        kept_for: dict[str, set[str]] = {}
        for oid, why in verdict.keep.items():
            kept_for.setdefault(why, set()).add(oid)
        for revision in self.revisions:
            what = self._figures(revision) or "other files"
            yield from self._kept(what, kept_for.get(revision.who, set()), f"named by {revision.who}")
        yield from self._kept("earlier recordings", kept_for.get(_IRREPLACEABLE, set()), _IRREPLACEABLE)

    def safe(self, own: set[str]) -> list[str]:
        """The objects to tell `dvc gc` of, which knows the workspace alone: they and what they list stay."""
        claimed = {oid for revision in self.revisions for oid in self._claimed(revision)}
        listed = {oid for oid in claimed - own if self.cache.path(oid).is_file()}
        return sorted(listed | set(self._recordings(own)))

    def _claimed(self, revision: Revision) -> set[str]:
        """The outs that it keeps from going."""
        if self.request.history and not revision.is_tip:
            return set()
        may_thin = self.request.history or (self._is_here(revision) and not revision.is_pinned)
        return {oid for path, oid in revision.outs.items() if not (may_thin and path in self.states)}

    def _is_here(self, revision: Revision) -> bool:
        """Whether it names the run that lies in the workspace: of every phase the same model."""
        models = {model: self.named.get(model) for model in self.models}
        lie_here = all((self.workspace.root / model).is_dir() for model, oid in models.items() if oid)
        return lie_here and all(revision.outs.get(model) == oid for model, oid in models.items())

    def _recordings(self, own: set[str]) -> set[str]:
        """The earlier versions of recordings, which are in the cache and nowhere else."""
        if self.request.force:
            return set()
        return {oid for oid in self.objects - own if _RECORDINGS in self.cache.listing(oid)}

    def _going(self, oids: set[str]) -> Iterator[Item]:
        """A run each, and what is of none."""
        for revision in self.revisions:
            mine = self.cache.below(revision.outs.values()) & oids
            why = "its best stays" if revision.is_tip else "only an earlier commit names it"
            what = f"{revision.who}: {self._figures(revision) or 'a run'}"
            yield from self._item(what, mine, why, run_again(self.workspace, revision.way_back, self._ends(revision)))
            oids = oids - mine
        for what, mine in self._runs(oids):
            why = "no commit, branch, tag, experiment or stash names it"
            yield from self._item(f"{what} in DVC's cache", mine, why, LOST)
            oids = oids - mine
        yield from self._item("other files of earlier runs in DVC's cache", oids, "nothing names them")

    def _runs(self, oids: set[str]) -> Iterator[tuple[str, set[str]]]:
        """What these objects hold of a run each: its exported model and its states have the same best weights."""
        runs: dict[str, dict[str, Listing]] = {}  # by the object of the best weights
        for oid in sorted(oids):
            listing = self.cache.listing(oid)
            best = _best_weights(listing)
            if best:
                runs.setdefault(best, {})[oid] = listing
        for listings in runs.values():
            labels = sorted(map(self._label, listings.values()))  # that of a model comes first, and says the phase
            yield labels[0], {each for oid, listing in listings.items() for each in (oid, *listing.values())} & oids

    def _figures(self, revision: Revision) -> str:
        """Of the phases that it names."""
        models = [self.cache.listing(revision.outs.get(model, "")) for model in sorted(self.models)]
        figures = (_mel_ce(self._read(listing, MODEL_CARD)) for listing in models)
        return ", ".join(each for each in figures if each)

    def _ends(self, revision: Revision) -> list[int]:
        """The last steps of the phases that it names, as far as the cache has their cards."""
        cards = [self._read(self.cache.listing(revision.outs.get(model, "")), MODEL_CARD) for model in self.models]
        return [card["last_step"] for card in cards if isinstance(card.get("last_step"), int)]

    def _label(self, listing: Listing) -> str:
        model = _mel_ce(self._read(listing, MODEL_CARD))
        if model:
            return f"an earlier run: {model}"
        states = _mel_ce(self._read(listing, DONE).get("figures"))
        return f"states of an earlier run: {states}" if states else "states of an earlier run"

    def _read(self, listing: Listing, name: str) -> dict[str, Any]:
        """A JSON file of a listing; nothing where the cache has lost it, or it is damaged."""
        try:
            content: dict[str, Any] = read_json(self.cache.path(listing[name]))
        except (KeyError, OSError, ValueError):
            return {}
        return content

    def _item(self, what: str, oids: set[str], why: str, again: str = "") -> Iterator[Item]:
        paths = self.cache.paths(oids)
        if paths:
            yield Item(what, why, [], paths, again=again)

    def _kept(self, what: str, oids: Set[str], why: str) -> Iterator[Kept]:
        paths = self.cache.paths(oids)
        if paths:
            yield Kept(f"{what} in DVC's cache", why, held_bytes(paths))


def _best_weights(listing: Listing) -> str | None:
    """The object of the best weights, if it lists an exported model or the states of a finished phase."""
    if MODEL_CARD in listing:
        return listing.get(WEIGHTS)
    bests = (
        oid
        for path, oid in listing.items()
        if checkpoint_step(path.split("/")[0], "best") is not None and path.endswith(f"/{WEIGHTS}")
    )
    return next(bests, None) if DONE in listing else None


def _mel_ce(figures: Any) -> str | None:
    """For a reader; None where an older format has it elsewhere."""
    try:
        return f"{figures.get('phase', '')} Mel CE {figures['eval']['mel_ce']:.3f} at step {figures['step']}".strip()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
