"""A finished run's work/ goes when DVC has its model, and not for another run's."""

from checkouts import Checkout

from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import DONE, MODEL_CARD, Workspace
from xtts_finetune.diskspace.plan import Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.dvcio.outs import remove_finished_work


def finished_work(workspace: Workspace, step: int) -> None:
    card = read_json(workspace.model("phase1") / MODEL_CARD)
    own = ("phase", "base", "sha256", "params")
    figures = {name: figure for name, figure in card.items() if name not in own}
    write_json(workspace.work("phase1") / DONE, {"figures": figures | {"step": step}, "curve": ""})


def test_of_the_model_that_dvc_has(copied: Checkout) -> None:
    workspace = Workspace(copied.root)
    finished_work(workspace, copied.json("models/phase1/model.json")["step"])
    remove_finished_work(workspace)
    assert not workspace.work("phase1").exists()


def test_of_another_run_that_was_never_published(copied: Checkout) -> None:
    """Its publishing failed, the parameters went back, and DVC restored the run before from its run-cache."""
    workspace = Workspace(copied.root)
    finished_work(workspace, 999)
    plan = make_plan(workspace, Request("best_only"))
    assert workspace.work("phase1") not in [path for item in plan.items for path in item.paths]
    remove_finished_work(workspace)
    assert (workspace.work("phase1") / DONE).is_file()
