"""`xtts-finetune promote` in clones that share a real MLflow server on loopback."""

import threading
from pathlib import Path

import pytest
import yaml
from making.params import make_params
from making.project import PROJECT
from mlflow_server import MlflowServer, running

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file, write_json
from xtts_finetune.core.layout import (
    BASE_FILES,
    BUNDLE_BASE,
    REFERENCE,
    SETTINGS,
    WEIGHTS,
    Workspace,
)
from xtts_finetune.promotion.bundles import bundle
from xtts_finetune.promotion.command import Request, history_lines, promote_lines, rollback_lines
from xtts_finetune.speech.speaker import SERVING_CODE
from xtts_finetune.tracking.connection import TrackingStore, open_store
from xtts_finetune.tracking.promotions import Log
from xtts_finetune.tracking.registry import EVAL_TAG, find_champion, register_best
from xtts_finetune.tracking.versions import Versions

pytestmark = pytest.mark.slow
MODEL = "xtts-finetune"


def clone(root: Path, server: MlflowServer) -> Workspace:
    workspace = Workspace(root)
    root.mkdir()
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["tracking"]["uri"] = server.uri
    workspace.params.write_text(yaml.safe_dump(params), encoding="utf-8")
    return workspace


def register(store: TrackingStore, model: Path, mel_ce: float) -> None:
    (model / WEIGHTS).write_bytes(f"weights of {mel_ce}".encode())
    run = store.client.create_run(store.experiment_id).info.run_id
    tags, figures = {"phase": "phase2", "step": "9", EVAL_TAG: "a"}, {"eval/mel_ce": mel_ce, "eval/text_ce": 3.0}
    register_best(store, run, MODEL, model, SERVING_CODE, sha256_file(model / WEIGHTS), tags, figures)


def promote(workspace: Workspace, version: int) -> None:
    list(promote_lines(workspace, Request(str(version), force=False, why="")))


def test_two_clones_promote_at_once(tmp_path: Path, model: Path, empty_server: MlflowServer) -> None:
    (model / BUNDLE_BASE).mkdir()
    for name in (REFERENCE, *(f"{BUNDLE_BASE}/{name}" for name in BASE_FILES)):
        (model / name).write_bytes(name.encode())
    write_json(model / SETTINGS, {})
    with running(empty_server):
        clones = [clone(tmp_path / name, empty_server) for name in ("ours", "theirs")]
        store = open_store(clones[0], make_params(uri=empty_server.uri).tracking)
        for mel_ce in (4.3, 4.2, 4.1, 4.0):
            register(store, model, mel_ce)
        promoted = list[int]()

        def at_once(workspace: Workspace, version: int) -> None:
            try:
                promote(workspace, version)
                promoted.append(version)
            except UserError as error:
                assert "the champion changed meanwhile" in str(error) or "does not pass" in str(error)

        threads = [threading.Thread(target=at_once, args=each) for each in zip(clones, (2, 3), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        champion = find_champion(store, MODEL)
        assert champion
        assert champion.version in promoted
        promote(clones[0], 4)  # and has not pulled
        assert {entry.champion for entry in Log.read(clones[0].promotions).entries} == {*promoted, 4}
        list(rollback_lines(clones[0], why=""))
        back = find_champion(store, MODEL)
        assert back
        assert back.version == champion.version
        assert "each is as it was written" in list(history_lines(clones[0], verified=True))[-1]
        versions = Versions.of(store, MODEL)
        with bundle(clones[1], make_params(uri=empty_server.uri), versions, back) as folder:
            assert sha256_file(folder / WEIGHTS) == back.tags["model_sha256"]
            assert {file.name for file in (folder / BUNDLE_BASE).iterdir()} == {*BASE_FILES}
        assert not folder.exists()
        empty_server.kill()
        assert "MLflow is not known" in list(history_lines(clones[0], verified=False))[-1]
        with pytest.raises(UserError, match="MLflow cannot be used"):
            promote(clones[0], 4)
