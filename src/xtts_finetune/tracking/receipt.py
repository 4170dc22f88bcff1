"""What this checkout knows of the version in reports/registration.json, beside it: where it is, and whether it is gone.

The receipt itself is evaluate's out, the same wherever the same weights are registered. If it said more, DVC would run
evaluate again, here or in a clone that gets this one's dvc.lock, and that would register the weights again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from xtts_finetune.core.files import read_json_object, sha256_json, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG

IN_QUEUE = "in_queue"  # of a receipt that is of no version: an experiment of DVC's queue registers nothing
_IDENTITY = ("name", "version", WEIGHTS_TAG)


@dataclass(frozen=True)
class Beside:
    """A receipt.

    Attributes:
        registry: of `registry.registry_of`; "": not known.
        address: of `address_digest`; "": not known.
        is_deleted: by `clean --versions`.
    """

    registry: str = ""
    address: str = ""
    is_deleted: bool = False

    @classmethod
    def read(cls, workspace: Workspace, receipt: Mapping[str, Any]) -> Self:
        """What is known; nothing where the receipt is of another version, or none."""
        found = read_json_object(workspace.registered)
        if found.get("of") != _identity(receipt):
            return cls()
        registry, address = found.get("registry"), found.get("address")
        return cls(str(registry or ""), str(address or ""), found.get("is_deleted") is True)

    def write(self, workspace: Workspace, receipt: Mapping[str, Any]) -> None:
        write_json(workspace.registered, {"of": _identity(receipt), **asdict(self)})


def address_digest(uri: str | None) -> str:
    """Of `tracking.uri` without the user and the password that it may have in it."""
    if uri is None:
        return sha256_json(None)
    scheme, _, rest = uri.rstrip("/").partition("://")
    server, slash, path = rest.partition("/")
    return sha256_json([scheme, server.rpartition("@")[2] + slash + path])


def _identity(receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: receipt.get(name) for name in _IDENTITY}
