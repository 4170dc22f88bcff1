"""The registered versions of a model, and the way to their files. MLflow is loaded by whoever opens the store."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, sha256_file
from xtts_finetune.core.layout import BUNDLE_BASE, MODEL_CARD, WEIGHTS
from xtts_finetune.tracking.connection import TrackingStore, path_in
from xtts_finetune.tracking.logged_model import MODEL_FOLDER, WEIGHTS_TAG
from xtts_finetune.tracking.registry import Version, versions


@dataclass(frozen=True)
class Versions:
    """All of a model, the newest first."""

    store: TrackingStore
    model_name: str
    versions: list[Version]

    @classmethod
    def of(cls, store: TrackingStore, model_name: str) -> Self:
        return cls(store, model_name, versions(store, model_name))

    def get(self, wanted: str) -> Version | None:
        """By its number, or an alias of it."""
        return next((each for each in self.versions if wanted == str(each.version) or wanted in each.aliases), None)

    def fetch(self, version: Version, folder: Path, names: Iterable[str] = (WEIGHTS, MODEL_CARD)) -> None:
        """Files of its bundle into `folder`: as links where the store is this workspace's own, else downloaded.

        Raises:
            UserError: they are gone, or at a path of this machine that is not our own.
        """
        with _refused_if_gone(version):
            address = self._address(version)
            here = self.own_folder(version)
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                if here:
                    link_or_copy((here / name).resolve(), folder / name)
                else:
                    there = self.store.artifact_repository(f"{address}/{MODEL_FOLDER}")
                    there.download_artifacts(name, str(folder))

    def sizes(self, version: Version) -> dict[str, int]:
        """Bytes of every file of its bundle, by its name there.

        Raises:
            UserError: as of `fetch`.
        """
        with _refused_if_gone(version):
            here = self.own_folder(version)
            if here:
                files = [file for place in (here, here / BUNDLE_BASE) for file in place.iterdir() if file.is_file()]
                return {file.relative_to(here).as_posix(): file.stat().st_size for file in files}
            there = self.store.artifact_repository(f"{self._address(version)}/{MODEL_FOLDER}")
            listed = [*there.list_artifacts(), *there.list_artifacts(BUNDLE_BASE)]
            return {info.path: info.file_size or 0 for info in listed if not info.is_dir}

    def holds(self, digest: str) -> bool:
        """Whether the workspace's own store has these weights, by every byte: what a tag says is no copy."""
        tagged = [version for version in self.versions if version.tags.get(WEIGHTS_TAG) == digest]
        folders = [folder for version in tagged if (folder := self.own_folder(version))]
        return any((folder / WEIGHTS).is_file() and sha256_file(folder / WEIGHTS) == digest for folder in folders)

    def own_folder(self, version: Version) -> Path | None:
        """Where its files lie in this workspace's own store; None if its address means any other place."""
        here = path_in(self.store.artifacts, self._address(version)) if self.store.artifacts else None
        return here / MODEL_FOLDER if here else None

    def _address(self, version: Version) -> str:
        address: str = self.store.client.get_model_version_download_uri(version.name, str(version.version))
        return address


def shown(version: Version) -> str:
    """It in words: number, aliases, phase, Mel CE."""
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    figures = f", Mel CE {float(version.tags['eval_mel_ce']):.3f}" if "eval_mel_ce" in version.tags else ""
    return f"version {version.version}{aliases}: the best of {version.tags.get('phase')}{figures}"


@contextmanager
def _refused_if_gone(version: Version) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (FileNotFoundError, MlflowException) as error:
        what = f"its files cannot be had: {(str(error).splitlines() or [''])[0][:200]}"
        problem = Problem(f"{version.name} version {version.version}", what, "choose another version")
        raise UserError("the registered model cannot be used", [problem]) from error
