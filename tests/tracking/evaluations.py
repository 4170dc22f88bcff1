"""An evaluation as far as MLflow can tell: its figures, and the model that it found best."""

from dataclasses import replace
from pathlib import Path

from xtts_finetune.core.files import link_tree, sha256_file
from xtts_finetune.core.layout import Workspace
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.backlog import Files, put
from xtts_finetune.tracking.outbox import Order, Pipeline, new_tracked_run


def evaluate(
    workspace: Workspace,
    model: Path,
    created: int,
    pipeline: Pipeline | None = None,
    figures: dict[str, float] | None = None,
) -> str:
    """Put an evaluation that found this model best; its SHA-256.

    Args:
        figures: what it measured, as base/mel_ce.
    """
    sha256 = sha256_file(model / "model.safetensors")
    tags = {"phase": "phase2", "step": "7"}
    order = Order("voice", sha256, tags, {"eval/mel_ce": 2.5})
    record = replace(
        new_tracked_run(sha256[:16], "evaluate", {}, {"phase": "evaluate", "best": "phase2"}),
        created=created,
        ended=created,
        status="FINISHED",
        pipeline=pipeline,
        figures=figures or {},
    )
    (workspace.reports / "samples").mkdir(parents=True, exist_ok=True)
    (workspace.reports / "samples" / "1.wav").unlink(missing_ok=True)  # published anew, as every file
    (workspace.reports / "samples" / "1.wav").write_bytes(sha256.encode())
    files = Files([workspace.reports / "samples"], lambda folder: link_tree(model, folder), SERVING_CODE)
    put(workspace, replace(record, order=order), [{"step": 7, "time": created, "eval/mel_ce": 2.5}], files)
    return sha256
