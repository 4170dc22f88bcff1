"""Which phases are to come: those whose model is not here, or is of another run than the parameters ask for."""

from typing import Any

import pytest
import yaml
from making.done_runs import done
from making.params import changed, of_the_real_model
from making.prepared import describe_base, list_features

from xtts_finetune.checkpoints.identity import TRAINED_WITH, Record, identity_of, prepared_here
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.ahead import is_done, run_folder, unfinished

BOTH = list(PHASES)
PARAMS = of_the_real_model()


def export(workspace: Workspace, *phases: PhaseName, params: Params = PARAMS) -> None:
    """Their cards, as if they had been trained by these parameters."""
    for phase in phases:
        settings = {"seed": params.seed, **params.phase(phase).model_dump()}
        card = {"base": params.base, "params": settings, TRAINED_WITH: prepared_here(workspace)}
        write_json(workspace.model(phase) / "model.json", {**card, "sha256": f"of {phase}", "last_step": 200})


def lock(workspace: Workspace, **stages: Any) -> None:
    workspace.dvc_lock.write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")


def test_the_phases_to_come(workspace: Workspace) -> None:
    assert unfinished(workspace, PARAMS) == BOTH
    export(workspace, "phase2")  # of the run before
    assert unfinished(workspace, PARAMS) == BOTH
    write_json(workspace.work("phase1") / "DONE", done(PARAMS))
    assert unfinished(workspace, PARAMS) == ["phase2"]
    export(workspace, "phase1")
    assert unfinished(workspace, PARAMS) == []


def test_models_of_another_base_are_not_those(workspace: Workspace) -> None:
    """The starter run, and then the real model's parameters."""
    describe_base(workspace, base="mini")
    mini = PARAMS.model_copy(update={"base": "mini"})
    export(workspace, *PHASES, params=mini)
    assert unfinished(workspace, mini) == []
    assert unfinished(workspace, PARAMS) == BOTH


@pytest.mark.parametrize(
    ("phase", "to_come"), [("phase1", BOTH), ("phase2", ["phase2"])], ids=["of phase 1", "of phase 2"]
)
@pytest.mark.parametrize("changes", [{"lr": 1e-4}, {"epochs": 99}])
def test_of_other_parameters_neither(
    workspace: Workspace, phase: PhaseName, to_come: list[PhaseName], changes: dict[str, Any]
) -> None:
    export(workspace, *PHASES)
    assert unfinished(workspace, changed(PARAMS, phases=[phase], **changes)) == to_come


@pytest.mark.parametrize("what", ["clips", "weights"])
def test_of_another_start_neither(workspace: Workspace, what: str) -> None:
    export(workspace, *PHASES)
    if what == "clips":
        list_features(workspace, **{"train.jsonl": "other"})
    else:
        describe_base(workspace, sha256="of files that were fetched since")
    assert unfinished(workspace, PARAMS) == BOTH


def test_before_prepare_has_taken_new_recordings(workspace: Workspace) -> None:
    export(workspace, *PHASES)
    lock(workspace, prepare={"params": {"params.yaml": {"seed": PARAMS.seed}}})
    assert unfinished(workspace, PARAMS) == []
    lock(workspace, prepare={"params": {"params.yaml": {"seed": 7}}})
    assert unfinished(workspace, PARAMS) == BOTH


def test_phase_2_of_another_phase_1_is_to_come(workspace: Workspace) -> None:
    export(workspace, *PHASES)
    outs = {"outs": [{"path": "models/phase1", "md5": f"{'a' * 32}.dir"}]}
    for used, to_come in (("a", []), ("b", ["phase2"])):
        deps = {"deps": [{"path": "models/phase1", "md5": f"{used * 32}.dir"}]}
        lock(workspace, train_phase1=outs, train_phase2=deps)
        assert unfinished(workspace, PARAMS) == to_come


@pytest.mark.parametrize("card", ["", "[]", "{}"])
def test_a_damaged_card_is_of_no_run(workspace: Workspace, card: str) -> None:
    export(workspace, *PHASES)
    (workspace.model("phase2") / "model.json").write_text(card)
    assert unfinished(workspace, PARAMS) == ["phase2"]


def test_a_run_on_another_base_is_not_gone_on_with(workspace: Workspace) -> None:
    """All else is alike, and `prepare` has yet to open the base that is asked for."""
    identity = identity_of(workspace, PARAMS, "phase1")
    assert identity
    write_json(workspace.work("phase1") / "DONE", {**Record(identity).to_json(), **done(PARAMS)})
    assert is_done(workspace, PARAMS, "phase1")
    other = PARAMS.model_copy(update={"base": "anna"})
    assert run_folder(workspace, other, "phase1") is None
    assert not is_done(workspace, other, "phase1")
