"""What a checkout's MLflow store holds, read as MLflow's own clients read it."""

from collections import defaultdict
from typing import Any

from checkouts import Checkout


def _client(checkout: Checkout) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{checkout.root / 'mlruns' / 'mlflow.db'}")


def runs(checkout: Checkout) -> dict[str, list[Any]]:
    """Every run but those that others come under, by the stage or phase it belongs to."""
    by_phase: dict[str, list[Any]] = defaultdict(list)
    for run in _all_runs(checkout):
        by_phase[run.data.tags["phase"]].append(run)
    by_phase.pop("pipeline", None)
    return dict(by_phase)


def pipelines(checkout: Checkout) -> list[Any]:
    """The runs that others come under."""
    return [run for run in _all_runs(checkout) if run.data.tags["phase"] == "pipeline"]


def _all_runs(checkout: Checkout) -> list[Any]:
    client = _client(checkout)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def history(checkout: Checkout, run: Any, metric: str) -> list[tuple[int, float]]:
    """Every stored point of a metric as (step, value), by step: one that is stored twice is there twice."""
    points = _client(checkout).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def versions(checkout: Checkout) -> list[Any]:
    """Every version of every registered model."""
    return list(_client(checkout).search_model_versions())


def aliases(checkout: Checkout) -> dict[str, int]:
    model = _client(checkout).get_registered_model("xtts-finetune")
    return {alias: int(version) for alias, version in model.aliases.items()}


def artifacts(checkout: Checkout, run: Any, folder: str | None = None) -> list[str]:
    return sorted(item.path for item in _client(checkout).list_artifacts(run.info.run_id, folder))
