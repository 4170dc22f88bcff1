"""The runs that made a model, by their ids in MLflow: known when it is registered, and not before."""

from pathlib import Path

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import is_run_key
from xtts_finetune.tracking.connection import TrackingStore
from xtts_finetune.tracking.delivery import find_run


def name_runs(store: TrackingStore, lineage: Path) -> None:
    """Write into a lineage.json the id of every run that it has by its key, and that the store knows.

    A model that waits since before there was such a file has none.
    """
    if not lineage.is_file():
        return
    content = read_json(lineage)
    for run in content["runs"].values():
        if run and is_run_key(run["key"]):  # it is asked for by a query
            found = find_run(store, run["key"])
            run["mlflow_run_id"] = found.info.run_id if found else None
    write_json(lineage, content)
