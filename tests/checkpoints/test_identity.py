"""One identity of a run: what shapes its weights, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from making import workspaces
from making.params import starter
from making.prepared import DIGESTS, describe_base, list_features
from making.project import PROJECT

from xtts_finetune.checkpoints import identity
from xtts_finetune.checkpoints.identity import SOURCES, Identity, Record, identity_of
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_json, write_json
from xtts_finetune.core.layout import FEATURES, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return workspaces.described(tmp_path)


def key(workspace: Workspace, **changes: Any) -> str:
    identity = identity_of(workspace, starter(**changes), "phase1")
    assert identity is not None
    return identity.key


def test_before_prepare_there_is_none(workspace: Workspace) -> None:
    assert identity_of(workspace, starter(), "phase1") is not None
    assert identity_of(workspace, starter(), "phase2") is None, "phase 1 has not run"
    (workspace.prepared / FEATURES).unlink()
    assert identity_of(workspace, starter(), "phase1") is None
    list_features(workspace)
    (workspace.prepared / "base" / "base.json").unlink()
    assert identity_of(workspace, starter(), "phase1") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 7},
        {"target_mel_ce": None},
        {"patience": 3},
        {"epochs": 1, "target_mel_ce": 9.0, "patience": 1},
        {"stop_when_overfitting": True},
    ],
)
def test_when_it_stops_makes_no_other_run(workspace: Workspace, changes: dict[str, Any]) -> None:
    assert key(workspace, **changes) == key(workspace)


@pytest.mark.parametrize(
    "changes",
    [{"lr": 5e-4}, {"optim": "adamw8bit"}, {"warmup_steps": 0}, {"mask_prompt": True}, {"evaluate_every_steps": 5}],
)
def test_what_shapes_the_weights_does(workspace: Workspace, changes: dict[str, Any]) -> None:
    assert key(workspace, **changes) != key(workspace)


def test_a_stretched_schedule_is_another_run(workspace: Workspace) -> None:
    assert key(workspace, schedule="cosine", epochs=3) != key(workspace, schedule="cosine", epochs=4)
    assert key(workspace, schedule="cosine", patience=3) == key(workspace, schedule="cosine")


def test_data_and_initial_weights_do(workspace: Workspace) -> None:
    before = key(workspace)
    list_features(workspace, **{"train.jsonl": "other"})
    other_data = key(workspace)
    list_features(workspace)
    describe_base(workspace, sha256="other")
    assert len({before, other_data, key(workspace)}) == 3


@pytest.mark.parametrize("content", ["", "[1]", '{"gpt": {"path": "base/xt', "null"])
@pytest.mark.parametrize("name", ["prepared/base/base.json", "prepared/features.json", "models/phase1/model.json"])
def test_a_file_that_was_cut_short_is_named(workspace: Workspace, name: str, content: str) -> None:
    write_json(workspace.model("phase1") / "model.json", {"sha256": "best", "last_step": 15})
    assert identity_of(workspace, starter(), "phase2") is not None
    (workspace.root / name).write_text(content)
    with pytest.raises(UserError, match="what an earlier stage left cannot be used") as refused:
        identity_of(workspace, starter(), "phase2")
    [problem] = refused.value.problems
    assert problem.where == str(workspace.root / name)
    assert "dvc repro -f" in problem.remedy


def test_phase_2_starts_from_what_phase_1_left(workspace: Workspace) -> None:
    keys = set()
    for digest, last_step in (("best", 15), ("another best", 15), ("best", 18)):
        write_json(workspace.model("phase1") / "model.json", {"sha256": digest, "last_step": last_step})
        second = identity_of(workspace, starter(), "phase2")
        assert second is not None
        keys.add(second.key)
    assert len(keys | {key(workspace)}) == 4


def test_code_that_shapes_the_weights_does(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(workspace)
    monkeypatch.setattr(identity, "code_digest", lambda: "newer")
    assert key(workspace) != before


@pytest.mark.parametrize("stage", ["train_phase1", "train_phase2"])
def test_dvc_runs_a_phase_for_the_same_code(stage: str) -> None:
    package = "src/xtts_finetune/"
    deps = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    sources = [dep.removeprefix(package) for dep in deps if dep.startswith("src/")]
    assert sources == ["checkpoints/stopping.py", *SOURCES, "trend"]
    assert all((PROJECT / package / source).exists() for source in SOURCES)


def test_what_changed_is_said() -> None:
    before = Identity("phase1", {"data": "a", "seed": 42, "train_phase1.lr": 1e-5}, "old")
    after = Identity("phase1", {"data": "b", "seed": 42, "train_phase1.lr": 5e-6}, "new")
    assert after.changes(before) == ["data", "train_phase1.lr 1e-05 → 5e-06"]
    assert Identity("phase1", before.trajectory, "new").changes(before) == ["the code"]
    assert before.changes(before) == []


def test_a_record_comes_back() -> None:
    record = Record(Identity("phase1", {"seed": 42}, "old"), ((200, "new"), (300, "newer")))
    assert Record.from_json(record.to_json()) == record
    assert record.to_json()["key"] == record.identity.key
    assert record.code == "newer"
    assert Record(record.identity).code == "old"


def test_the_fingerprint_of_format_1_is_the_same_trajectory(workspace: Workspace) -> None:
    current = identity_of(workspace, starter(), "phase1")
    assert current is not None
    order = ["train.codes.i16", "train.jsonl", "eval.codes.i16", "eval.jsonl"]
    fingerprint = {
        "phase": "phase1",
        "seed": 42,
        "data": sha256_json([DIGESTS[name] for name in order]),
        "initial_weights": "of the base",
        **{f"train_phase1.{key}": value for key, value in starter().train_phase1.model_dump().items()},
    }
    record = Record.from_json({"fingerprint": fingerprint, "position": {}})
    assert record.identity.trajectory == {k: v for k, v in current.trajectory.items() if k != "voice_prompts"}
    assert current.changes(record.identity) == ["voice_prompts filled up with silence → of one length"]
    assert record.code == ""
