"""What is registered of a run, and whether it is champion: by its receipt, and by the registry where that lies here.

A receipt comes with DVC, and says what was so when the version was registered.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.report.origin import model_card
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.outbox import TRAINED
from xtts_finetune.tracking.receipt import IN_QUEUE, Beside, address_digest
from xtts_finetune.tracking.registered import Aliased, Known, known
from xtts_finetune.tracking.registry import CHAMPION

if TYPE_CHECKING:  # its log is read of a server's registry alone
    from xtts_finetune.tracking.promotions import Entry


@dataclass(frozen=True)
class Registration:
    """The last one of this workspace.

    Attributes:
        params: None: params.yaml cannot be read.
        receipt: reports/registration.json; empty where nothing was registered, or that cannot be read.
        own: what MLflow knows of the model, where its store is this workspace's own, and can be read.
    """

    workspace: Workspace
    params: Params | None
    receipt: Mapping[str, Any]
    beside: Beside
    own: Known | None

    @classmethod
    def read(cls, workspace: Workspace, params: Params | None) -> Self:
        receipt = _whole(read_json_object(workspace.registration))
        is_own = "name" in receipt and (params is None or params.tracking.uri is None)
        own = known(workspace, receipt["name"]) if is_own else None
        return cls(workspace, params, receipt, Beside.read(workspace, receipt), own)

    def __str__(self) -> str:
        """Which version it is, and whether it is what lies in models/."""
        receipt = self.receipt
        if not receipt:
            file = self.workspace.registration
            what = f"not known: {file.parent.name}/{file.name} is damaged (dvc repro -s -f evaluate writes it anew)"
            return what if file.exists() else "nothing yet of what lies here"
        if receipt.get("pending"):
            return "not yet: it waits for MLflow (xtts-finetune sync)"
        if receipt.get(IN_QUEUE):
            return "nothing: an experiment of DVC's queue registers nothing"
        version, here = f"{receipt['name']} version {receipt['version']}", self._here
        if self._is_elsewhere:
            there = " (dvc repro -s -f evaluate registers it there, too)" if here else ""
            return f"{version}, under another address or name than params.yaml has now{there}"
        if self._is_gone:
            again = "dvc repro -s -f evaluate registers its weights again" if here else "its weights are not in models/"
            return f"nothing any more: {version} was deleted ({again})"
        if self._weights is not None and not here:
            return f"{version} is of another run: those weights are not in models/"
        names = self._aliases
        if self.own is None:
            names.append("as far as this clone knows" + self._doubt)
        told = f" ({', '.join(names)})" if names else ""
        what = "the whole network of" if TRAINED in receipt else "the weights of"
        return f"{version}{told}" + (f", {what} models/{here[0]}" if here else "")

    @property
    def of_this_run(self) -> int | None:
        """The version that has this run's best, as far as is known; None: it waits, or was deleted, or is elsewhere."""
        version: int | None = self.receipt["version"] if self._is_there and not self.is_of_another_run else None
        return version

    @property
    def is_of_another_run(self) -> bool:
        """Whether a version is told whose weights do not lie in models/, as behind `dvc exp apply`."""
        return "version" in self.receipt and self._weights is not None and not self._here

    @property
    def is_to_be_promoted(self) -> bool:
        """Whether it is not the champion, as far as this checkout knows."""
        return self._is_there and CHAMPION not in self._aliases

    @property
    def champion_weights(self) -> str | None:
        """SHA-256 of the champion's, as far as this checkout knows; None: there is none, or it does not."""
        return self._champion.sha256 or None if self._champion else None

    @property
    def _weights(self) -> str | None:
        """SHA-256 of the version's; older receipts do not say."""
        return self.receipt.get(WEIGHTS_TAG)

    @property
    def _here(self) -> list[PhaseName]:
        """Phases whose best it is, by itself or put together with its base."""
        cards = {phase: model_card(self.workspace, phase) for phase in PHASES}
        of_it = (self._weights, self.receipt.get(TRAINED))
        return [phase for phase, card in cards.items() if card and card["sha256"] in of_it]

    @property
    def _is_there(self) -> bool:
        """Whether a version was registered where params.yaml says, and was not deleted since, as far as is known."""
        return "version" in self.receipt and not self._is_elsewhere and not self._is_gone

    @property
    def _is_elsewhere(self) -> bool:
        """Whether params.yaml names another registry, or another model in it."""
        if self.params is None:
            return False
        is_moved = self.beside.address not in ("", address_digest(self.params.tracking.uri))
        return is_moved or self.receipt["name"] != self.params.registry.model_name

    @property
    def _is_gone(self) -> bool:
        is_known_to_be = self.own is not None and self.receipt["version"] not in self.own.versions
        return self.beside.is_deleted or is_known_to_be

    @property
    def _aliases(self) -> list[str]:
        """As MLflow has them; of a server, as it was registered, but for what this checkout's log knows of since."""
        if self.own is not None:
            return sorted(name for name, each in self.own.aliases.items() if self._is_this(each))
        found = [alias for alias in self.receipt.get("aliases", []) if alias != CHAMPION]
        return [*found, CHAMPION] if self._champion and self._is_this(self._champion) else found

    def _is_this(self, other: Aliased) -> bool:
        """Whether it is this version, and not another of its number: numbers come again in another registry."""
        return other.version == self.receipt["version"] and _agree(other.sha256, self._weights or "")

    @cached_property
    def _champion(self) -> Aliased | None:
        if self.own is not None:
            return self.own.aliases.get(CHAMPION)
        if self._moves:
            return Aliased(self._moves[-1].champion, self._moves[-1].champion_sha256)
        number = self.receipt.get("champion")
        is_this = number == self.receipt.get("version")
        return None if number is None else Aliased(number, (self._weights or "") if is_this else "")

    @cached_property
    def _moves(self) -> "list[Entry]":
        """Of the log, those that lead on from who was champion when this was registered.

        Two that were written at once both do; the alias is where the last of them, or what follows both, put it.
        """
        from xtts_finetune.tracking.promotions import Log

        number = self.receipt.get("champion")
        is_this = number == self.receipt.get("version")
        were, moves = {number: (self._weights or "") if is_this else ""}, list["Entry"]()
        with suppress(UserError):
            for entry in Log.read(self.workspace.promotions).entries:
                before = were.get(entry.before)
                leads_on = entry.before is None or (before is not None and _agree(before, entry.before_sha256))
                if self._is_of_it(entry) and leads_on:
                    were[entry.champion] = entry.champion_sha256
                    moves.append(entry)
        return moves

    @property
    def _known(self) -> set[str]:
        """Digests of entries that were held against MLflow here, as far as that can be read."""
        from xtts_finetune.tracking.promotions import known_here

        try:
            return known_here(self.workspace)
        except UserError:
            return set()

    def _is_of_it(self, entry: "Entry") -> bool:
        is_of_the_registry = not self.beside.registry or entry.registry in ("", self.beside.registry)
        return entry.model == self.receipt.get("name") and is_of_the_registry

    @property
    def _doubt(self) -> str:
        from xtts_finetune.tracking.promotions import Log

        try:
            Log.read(self.workspace.promotions)
        except UserError:
            return ", whose log of promotions is damaged (xtts-finetune history)"
        if self._moves and self._moves[-1].digest not in self._known:
            return ", by a line of the log that was not held against MLflow here (xtts-finetune history --verify)"
        return ""


def _agree(*digests: str) -> bool:
    """Whether weights are the same, as far as both are known."""
    return len({*digests} - {""}) <= 1


def _whole(receipt: dict[str, Any]) -> dict[str, Any]:
    """A receipt; nothing where it lacks what one of its kind says."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str,
        "version": int,
        "aliases": list,
        "champion": (int, type(None)),
        WEIGHTS_TAG: (str, type(None)),
    }
    is_of_none = bool(receipt.get("pending") or receipt.get(IN_QUEUE))
    is_sound = all(isinstance(receipt[name], kind) for name, kind in kinds.items() if name in receipt)
    return receipt if is_sound and (is_of_none or {"name", "version"} <= receipt.keys()) else {}
