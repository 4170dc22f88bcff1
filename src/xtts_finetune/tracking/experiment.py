"""What MLflow's page of the experiment says and offers: a description, and views that have the columns that matter.

MLflow's run table shows no metric until somebody chooses columns, in every browser anew; a view that the experiment has
is in its list "Views" for all. What a user changed of these, or wrote, stays.
"""

import json
from collections.abc import Sequence

from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.notes import NOTE

_VIEW = "mlflow.sharedViewState."  # begins the tag of a view; the rest is its id, which links name
_KIND = "mlflow.experimentKind"  # else the page offers what is for chatbots
_FIGURES = ("best/mel_ce", "best/text_ce")
_CREATED = 1_700_000_000_000  # ms since the epoch; of all, so that equal views have equal tags


def furnish(store: TrackingStore) -> None:
    """Give the experiment what it lacks of description and views."""
    from mlflow.exceptions import MlflowException

    known = _known(store)
    for name, text in _tags(store.experiment_id).items():
        try:
            if name not in known:
                store.client.set_experiment_tag(store.experiment_id, name, text)
        except MlflowException:
            if name not in _known(store):  # else another one was faster
                raise


def _known(store: TrackingStore) -> dict[str, str]:
    return dict(store.client.get_experiment(store.experiment_id).tags)


def _tags(experiment_id: str) -> dict[str, str]:
    pipeline = ("base/mel_ce", "phase1/mel_ce", "phase2/mel_ce", *_FIGURES)
    of_phases = ("lr", "epochs", "batch_size", "schedule", "method")
    views = {
        "pipelines": _view(
            "Pipelines, a row each",
            "tags.phase = 'pipeline'",
            [*_metrics(pipeline), *_named("tags", ("best", "registered"))],
        ),
        "phases": _view(
            "Phases and their settings",
            "tags.phase LIKE 'phase%'",
            [*_metrics(_FIGURES), *_named("params", of_phases), *_named("tags", ("stopped", "best_step"))],
        ),
        "tree": _view("All runs as a tree", "", [*_metrics(_FIGURES), *_named("attributes", ("Source", "Models"))]),
    }
    link = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey"
    texts = {"pipelines": "Compare pipelines", "phases": "compare phases", "tree": "all runs as a tree"}
    links = " · ".join(f"[{text}]({link}={name})" for name, text in texts.items())
    description = (  # its first line is what the page shows of it at once
        f"{links}\n\n"
        "A pipeline is a run, with its phases and evaluations under it. Mel CE and Text CE are cross-entropies of the "
        "eval split in nats per token: lower is better. The links are in the list *Views*, too. Curves: choose runs, "
        "then the symbol of a chart."
    )
    return {
        NOTE: description,
        _KIND: "custom_model_development",
        **{f"{_VIEW}{name}": text for name, text in views.items()},
    }


def _view(name: str, chosen: str, columns: Sequence[str]) -> str:
    """A view as MLflow's page saves it.

    Args:
        chosen: the filter of runs, as it is typed there.
    """
    state = {
        "searchFilter": chosen,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
    }
    return json.dumps({"name": name, "createdAt": _CREATED, "updatedAt": _CREATED, "state": json.dumps(state)})


def _metrics(names: Sequence[str]) -> list[str]:
    return _named("metrics", names)


def _named(kind: str, names: Sequence[str]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]
