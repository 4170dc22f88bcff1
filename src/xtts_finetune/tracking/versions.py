"""The registered versions of a model, and the way to their files. MLflow is loaded by whoever opens the store."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xtts_finetune.core.constants import LANGUAGES, Language
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import link_or_copy, sha256_file
from xtts_finetune.core.layout import BUNDLE_BASE, MODEL_CARD, WEIGHTS
from xtts_finetune.tracking.connection import TrackingStore, path_in, reason
from xtts_finetune.tracking.logged_model import LANGUAGE_TAG, MODEL_FOLDER, PARAMETERS_TAG, WEIGHTS_TAG
from xtts_finetune.tracking.registry import Version, registry_of, versions

_TITLE = "the registered model cannot be used"
_EVAL = "eval_"  # begins the tags with figures


class NotWhole(UserError):
    """Files of a version are gone for good, or are not those that were registered."""

    @classmethod
    def because(cls, version: Version, what: str, is_own: bool) -> Self:
        """
        Args:
            is_own: its files are in the workspace's own store, where evaluating again fills up what is lacking.
        """
        run = f"bring its run back, as xtts-finetune reproduce {version.version} says, then: dvc repro -s -f evaluate"
        remedy = f"{run}; or choose another version" if is_own else "choose another version"
        return cls(_TITLE, [Problem(_named(version), what, remedy)])


@dataclass(frozen=True)
class Versions:
    """All of a model, the newest first."""

    store: TrackingStore
    model_name: str
    versions: list[Version]
    registry: str  # as of `registry_of`

    @classmethod
    def of(cls, store: TrackingStore, model_name: str) -> Self:
        return cls(store, model_name, versions(store, model_name), registry_of(store, model_name))

    def get(self, wanted: str) -> Version | None:
        """By its number, else by an alias of it: an alias may look like another one's number."""
        numbered = (each for each in self.versions if wanted == str(each.version))
        return next(numbered, next((each for each in self.versions if wanted in each.aliases), None))

    def find(self, wanted: str, title: str) -> Version:
        """The same.

        Raises:
            UserError: under that title; there is none, but those that it names.
        """
        version = self.get(wanted)
        if version:
            return version
        what, remedy = f"there is no such version; there is:{self.listed}", "choose one of them"
        if not self.versions:
            what, remedy = (
                f"no version of {self.model_name} is registered",
                "dvc repro: its last stage, evaluate, registers the best (dvc repro -s -f evaluate: once more)",
            )
        raise UserError(title, [Problem(f"{self.model_name}: {wanted}", what, remedy)])

    @property
    def listed(self) -> str:
        """Them in words, for a message: a line each, after a line's end; "" of none."""
        return "".join(f"\n        {shown(each)}" for each in self.versions)

    def fetch(self, version: Version, folder: Path, names: Iterable[str] = (WEIGHTS, MODEL_CARD)) -> None:
        """Files of its bundle into `folder`: as links where the store is this workspace's own, else downloaded.

        Raises:
            UserError: they are gone, or at a path of this machine that is not our own.
        """
        with self._read(version) as here:
            address = self.address(version)
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                if here:
                    link_or_copy(here / name, folder / name)
                else:
                    there = self.store.artifact_repository(f"{address}/{MODEL_FOLDER}")
                    there.download_artifacts(name, str(folder))

    def sizes(self, version: Version) -> dict[str, int]:
        """Bytes of every file of its bundle, by its name there.

        Raises:
            UserError: as of `fetch`.
        """
        with self._read(version) as here:
            if here:
                files = [file for place in (here, here / BUNDLE_BASE) for file in place.iterdir() if file.is_file()]
                return {file.relative_to(here).as_posix(): file.stat().st_size for file in files}
            there = self.store.artifact_repository(f"{self.address(version)}/{MODEL_FOLDER}")
            listed = [*there.list_artifacts(), *there.list_artifacts(BUNDLE_BASE)]
            return {info.path: info.file_size or 0 for info in listed if not info.is_dir}

    @contextmanager
    def _read(self, version: Version) -> Iterator[Path | None]:
        """Where its files lie in this workspace's own store, or None."""
        with _refused_if_gone(version, self.store.artifacts is not None):
            yield self.own_folder(version)

    def holds(self, digest: str) -> bool:
        """Whether the workspace's own store has these weights, by every byte: what a tag says is no copy."""
        tagged = [version for version in self.versions if version.tags.get(WEIGHTS_TAG) == digest]
        folders = [folder for version in tagged if (folder := self.own_folder(version))]
        return any((folder / WEIGHTS).is_file() and sha256_file(folder / WEIGHTS) == digest for folder in folders)

    def own_folder(self, version: Version) -> Path | None:
        """Where its files lie in this workspace's own store; None if its address means any other place."""
        here = path_in(self.store.artifacts, self.address(version)) if self.store.artifacts else None
        return here / MODEL_FOLDER if here else None

    def address(self, version: Version) -> str:
        """Where MLflow says that its files are."""
        address: str = self.store.client.get_model_version_download_uri(version.name, str(version.version))
        return address


@dataclass(frozen=True)
class Told:
    """What a version's tags tell of it. On a server anybody may edit them: what makes no sense there is not known."""

    phase: str
    step: int | None
    best_weights: str  # raw or ema
    base: str  # as params.yaml named it
    sha256: str  # of its weights
    parameters: int | None  # of the whole network
    language: Language | None  # that it was heard in
    figures: dict[str, float]  # mel_ce and such, on the eval split, in nats per token

    @classmethod
    def of(cls, version: Version) -> Self:
        tags = version.tags
        measured = {name.removeprefix(_EVAL): text for name, text in tags.items() if name.startswith(_EVAL)}
        return cls(
            phase=tags.get("phase", ""),
            step=_count(tags.get("step", "")),
            best_weights="ema" if tags.get("best_weights") == "ema" else "raw",  # older versions do not say
            base=tags.get("base", ""),
            sha256=tags.get(WEIGHTS_TAG, ""),
            parameters=_count(tags.get(PARAMETERS_TAG, "")),
            language=next((each for each in LANGUAGES if each == tags.get(LANGUAGE_TAG)), None),
            figures={name: figure for name, text in measured.items() if (figure := _figure(text)) is not None},
        )


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _figure(text: str) -> float | None:
    try:
        figure = float(text)
    except ValueError:
        return None
    return figure if math.isfinite(figure) else None


def has_its_weights(folder: Path, version: Version) -> bool:
    """Whether the weights in a folder are, by every byte, those that the version was registered with."""
    return sha256_file(folder / WEIGHTS) == version.tags.get(WEIGHTS_TAG)


def shown(version: Version) -> str:
    """It in words: number, aliases, phase, Mel CE."""
    told, aliases = Told.of(version), f" ({', '.join(version.aliases)})" if version.aliases else ""
    figures = f", Mel CE {told.figures['mel_ce']:.3f}" if "mel_ce" in told.figures else ""
    figures += " (EMA)" if told.best_weights == "ema" else ""
    text = f"version {version.version}{aliases}: the best of {told.phase or 'no phase that is known'}{figures}"
    return text if text.isprintable() else repr(text)


@contextmanager
def _refused_if_gone(version: Version, is_own: bool) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except FileNotFoundError as error:
        raise NotWhole.because(version, f"its files cannot be had: {reason(error)}", is_own) from error
    except (OSError, MlflowException) as error:  # those of requests are OSErrors
        problem = Problem(_named(version), f"its files cannot be had now: {reason(error)}", "type it again")
        raise UserError(_TITLE, [problem]) from error


def _named(version: Version) -> str:
    return f"{version.name} version {version.version}"
