"""The ids of a model's runs, which MLflow alone knows."""

from pathlib import Path

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.keyed_runs import key_tags
from xtts_finetune.tracking.naming import name_runs


def test_runs_that_the_store_knows_get_their_ids(store: TrackingStore, tmp_path: Path) -> None:
    key, hostile = "0123456789abcdef", "x' OR tags.run_key != '"
    run = store.client.create_run(store.experiment_id, tags=key_tags(store, key))
    lineage = tmp_path / "lineage.json"
    keys = {"phase1": {"key": key}, "phase2": {"key": "fedcba9876543210"}, "evaluate": {"key": hostile}, "other": None}
    write_json(lineage, {"format": 1, "runs": keys})
    for _ in range(2):  # delivered again after a kill
        name_runs(store, lineage)
        told = read_json(lineage)
        assert told["format"] == 1
        assert told["runs"]["phase1"] == {"key": key, "mlflow_run_id": run.info.run_id}
        assert told["runs"]["phase2"]["mlflow_run_id"] is None
        assert "mlflow_run_id" not in told["runs"]["evaluate"]
        assert told["runs"]["other"] is None


def test_a_model_that_waits_since_before(store: TrackingStore, tmp_path: Path) -> None:
    name_runs(store, tmp_path / "lineage.json")
    assert not any(tmp_path.glob("lineage.json"))
