"""The model registry: one version for one set of weights, at no extra byte on disk where the store is local.

A version's files are an MLflow logged model: a few lines of configuration, and the model's own files under a second
name (hard links) in its folder. mlflow takes seconds to import: only inside functions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_finetune.core.commands import as_typed
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.keyed_runs import cut
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG, log_model, refill, whole_model
from xtts_finetune.tracking.notes import NOTE, NUMBER, RUN_PAGE
from xtts_finetune.tracking.receipt import address_digest

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

CANDIDATE, CHAMPION = "candidate", "champion"
DATA_TAG, DATA_DESCRIPTION_TAG = "data_md5", "data"
EVAL_TAG = "eval_sha256"  # of the eval split as it was measured on: audio, codes and tokens

_PAGE_CHARACTERS = 5000  # of a version's page, as MLflow's databases take it
_VERSIONS = "mlflow.modelVersions"  # the tag by which MLflow's page of a model knows that it is registered
_WHAT_IT_IS = (
    "Voices fine-tuned by this project, the best phase of each evaluation: give it text, it answers with sound. "
    "candidate is the latest evaluation's, champion the one in use: `xtts-finetune promote` moves it, and says why."
)


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    name: str
    version: int
    aliases: list[str]
    tags: dict[str, str]
    run_id: str


@dataclass(frozen=True)
class Registration:
    """What `register_best` did; `created` is False when these weights were registered before."""

    name: str
    version: int
    aliases: list[str]
    created: bool
    champion: int | None  # None: there is none
    note: str | None  # what the user should know of the champion
    registry: str  # as of `registry_of`
    address: str  # as of `address_digest`

    def __str__(self) -> str:
        verb = "registered" if self.created else "already registered"
        note = f"\n{as_typed(self.note)}" if self.note else ""
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{verb}: {self.name} version {self.version}{aliases}{note}"


def register_best(
    store: TrackingStore,
    run_id: str,
    model_name: str,
    folder: Path,
    serving_code: Path,
    model_sha256: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    is_latest: bool = True,
    page: str = "",
    samples: Path | None = None,
) -> Registration:
    """Register the self-contained model in `folder`; while it is the only one, it is candidate and champion.

    Weights that are registered already keep their version. A crash leaves no version: it is created when its files
    are safe.

    Args:
        serving_code: the source file of a pyfunc model that loads `folder`.
        tags: name `phase` and `step`, and should tell the data by DATA_TAG and DATA_DESCRIPTION_TAG.
        metrics: in nats per token; they become tags, `eval/mel_ce` as `eval_mel_ce`.
        is_latest: whether it is to be the candidate in any case.
        page: Markdown for the version's page, of `notes.version_page`; "": a line is made of `tags` and `metrics`.
        samples: a folder that goes beside the model, to be listened to on its page.

    Raises:
        MlflowException: the store refuses.
    """
    same = [version for version in versions(store, model_name) if version.tags.get(WEIGHTS_TAG) == model_sha256]
    if same:
        number, run = same[0].version, same[0].run_id
        if there := whole_model(store, run, model_name, model_sha256):
            refill(store, there, run, folder, serving_code, tags, samples)
    else:
        model = whole_model(store, run_id, model_name, model_sha256) or log_model(
            store, run_id, model_name, folder, serving_code, model_sha256, tags, samples
        )
        _log_metrics(store, run_id, model, int(tags["step"]), metrics)
        number = _create_version(store, run_id, model, {**tags, WEIGHTS_TAG: model_sha256}, metrics, page)
    _complete(store, model_name, number)
    aliases = _set_aliases(store, model_name, number, is_latest)
    champion = find_champion(store, model_name)
    note = None if CHAMPION in aliases else _of_the_champion(champion, number, tags)
    where = registry_of(store, model_name), address_digest(None if store.artifacts else store.uri)
    return Registration(model_name, number, aliases, not same, champion.version if champion else None, note, *where)


def versions(store: TrackingStore, model_name: str) -> list[Version]:
    """All versions of a model, the newest first; none if it isn't registered."""
    stored = store.client.search_model_versions(f"name = '{model_name}'")
    aliases = _aliases(store, model_name) if stored else {}
    listed = [
        Version(
            name=item.name,
            version=int(item.version),
            aliases=sorted(alias for alias, version in aliases.items() if version == int(item.version)),
            tags=dict(item.tags),
            run_id=item.run_id or "",
        )
        for item in stored
    ]
    return sorted(listed, key=lambda version: version.version, reverse=True)


def registry_of(store: TrackingStore, model_name: str) -> str:
    """Tells a registry from others that have a model of this name: when it was made there, in ms since 1970; "": never.

    Clones with stores of their own have versions of the same numbers, and by equal runs of the same weights.
    """
    found = store.client.search_registered_models(f"name = '{model_name}'")
    return next((str(model.creation_timestamp) for model in found), "")


def find_champion(store: TrackingStore, model_name: str) -> Version | None:
    return next((version for version in versions(store, model_name) if CHAMPION in version.aliases), None)


def move_champion(store: TrackingStore, version: Version) -> None:
    """Let the alias `champion` name another version, in one step."""
    store.client.set_registered_model_alias(version.name, CHAMPION, str(version.version))


def _create_version(
    store: TrackingStore,
    run_id: str,
    model: "LoggedModel",
    tags: dict[str, str],
    metrics: Mapping[str, float],
    page: str,
) -> int:
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    client, model_name = store.client, model.name
    outputs = client.get_run(run_id).outputs
    if not (outputs and any(output.model_id == model.model_id for output in outputs.model_outputs)):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=int(tags["step"]))])
    try:
        client.create_registered_model(model_name, description=_WHAT_IT_IS)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        model_name,
        model.artifact_location,  # models:/<id> would be looked up in mlflow's global store, not in this one
        run_id=run_id,
        tags=tags | {name.replace("/", "_"): str(value) for name, value in metrics.items()},
        description=cut(page or _description(tags, metrics), _PAGE_CHARACTERS),
        model_id=model.model_id,
    )
    return int(created.version)


def _complete(store: TrackingStore, model_name: str, number: int) -> None:
    """Tell a version's page what was known only when it was there, and the model's of the version.

    A crash may have come between: whoever comes after makes up for it.
    """
    client = store.client
    version = client.get_model_version(model_name, str(number))
    page = version.description or ""
    of_run = f"#/experiments/{store.experiment_id}/runs/{version.run_id}/artifacts"
    complete = cut(page.replace(NUMBER, str(number)).replace(RUN_PAGE, of_run), _PAGE_CHARACTERS)
    if complete != page:
        client.update_model_version(model_name, str(number), complete)
    model = whole_model(store, version.run_id or "", model_name, version.tags.get(WEIGHTS_TAG, ""))
    if model and _VERSIONS not in model.tags:
        link = json.dumps([{"name": model_name, "version": number}])
        client.set_logged_model_tags(model.model_id, {_VERSIONS: link, NOTE: complete})


def _log_metrics(
    store: TrackingStore, run_id: str, model: "LoggedModel", step: int, metrics: Mapping[str, float]
) -> None:
    """Let the model's page have the figures, too: the run's own points, which the store has once."""
    from mlflow.entities import Metric

    points = []
    for name, value in metrics.items():
        history = store.client.get_metric_history(run_id, name)
        time = next((point.timestamp for point in history if (point.step, point.value) == (step, value)), None)
        at = model.creation_timestamp if time is None else time
        points.append(Metric(name, value, at, step, model_id=model.model_id, run_id=run_id))
    store.client.log_batch(run_id, points)


def _description(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    figures = [f"{name.replace('/', ' ').replace('_', ' ')} {value:.4f}" for name, value in sorted(metrics.items())]
    measured = f"; {', '.join(figures)} nats per token" if figures else ""
    return f"The best of {tags['phase']}, step {tags['step']}{measured}. Weights {tags[WEIGHTS_TAG][:12]}."


def _of_the_champion(champion: Version | None, number: int, tags: Mapping[str, str]) -> str:
    """Whose voice the champion is, and how another becomes it."""
    if champion is None:
        return f"there is no champion; to make it one: xtts-finetune promote {number}"
    same = champion.tags.get(DATA_TAG) == tags.get(DATA_TAG)
    whose = (
        "of the same recordings" if same else f"of OTHER recordings ({champion.tags.get(DATA_DESCRIPTION_TAG, '?')})"
    )
    return f"champion stays version {champion.version}, {whose}; to move it: xtts-finetune promote {number}"


def _set_aliases(store: TrackingStore, model_name: str, version: int, is_latest: bool) -> list[str]:
    """Point `candidate` at the latest, and `champion` at the only one there is; the version's aliases.

    Where there are others, and none is champion, somebody has to say which: the gate is not passed by registering.
    """
    before = _aliases(store, model_name)
    if CANDIDATE not in before or is_latest:
        store.client.set_registered_model_alias(model_name, CANDIDATE, str(version))
    if CHAMPION not in before and len(store.client.search_model_versions(f"name = '{model_name}'")) == 1:
        store.client.set_registered_model_alias(model_name, CHAMPION, str(version))
    return sorted(alias for alias, number in _aliases(store, model_name).items() if number == version)


def _aliases(store: TrackingStore, model_name: str) -> dict[str, int]:
    """Each alias and its version; versions found by a search come without them."""
    return {alias: int(version) for alias, version in store.client.get_registered_model(model_name).aliases.items()}
