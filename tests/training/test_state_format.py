"""States have a format: those of before it had a number still load, and what does not fit is named."""

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from making import workspaces
from making.params import make_params
from safetensors.torch import load_file, save_file
from torch import Tensor
from workbench import interrupt, make_run, outcome, store_of, train

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.identity import FORMAT, Record, identity_of
from xtts_finetune.checkpoints.parking import parked
from xtts_finetune.core.errors import Stopped, UserError
from xtts_finetune.core.files import read_json, sha256_file, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.curve import as_text, stored_rows
from xtts_finetune.training.position import Position

pytestmark = pytest.mark.usefixtures("short_prompts")
# Written by the code of 1575f5b after 4 steps of `make_params()`; then its tensors were filled with constants, so that
# it compresses: the n-th of a file, by its key, with n / 1024.
FORMAT_1 = Path(__file__).parent / "format-1.tar.xz"
SINCE_FORMAT_1 = {
    "voice_prompts": "of one length",
    "train_phase1.method": "full",
    "train_phase1.train_only": None,
    "train_phase1.lora": None,
    "train_phase1.dropout": 0.1,
    "train_phase1.attention_dropout": 0.0,
    "train_phase1.gradient_checkpointing": False,
    "train_phase1.ema": None,
    "train_phase1.batch_tokens": None,
    "train_phase1.evaluate_every_steps": None,
}
OF_FORMAT_1 = {"gpt_layers": 1, "gpt_n_model_channels": 32, "gpt_n_heads": 1, "decoder_input_dim": 32}


def newest(workspace: Workspace) -> Checkpoint:
    return store_of(workspace).states()[-1]


def sealed(folder: Path) -> None:
    """Let the manifest vouch for the files as they are."""
    files = [file for file in sorted(folder.iterdir()) if file.name != "manifest.json"]
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    write_json(folder / "manifest.json", {"files": listed})


def in_format_1(workspace: Workspace) -> None:
    """Every state and best rewritten as the code before would have."""
    params = make_params()
    settings = {f"train_phase1.{key}": value for key, value in params.train_phase1.model_dump().items()}
    run = make_run(workspace, params)
    names = {parameter: name for name, parameter in run.gpt.named_parameters()}
    order = [names[p] for group in run.optimizer.param_groups for p in group["params"]]
    for folder in workspace.work("phase1").glob("*-*"):
        state = read_json(folder / "state.json")
        position = {**state["position"], "evaluations_at_target": 0, "evaluations_since_best": 0}
        del position["skipped_steps"]
        fingerprint = {**state["trajectory"], **settings}
        write_json(folder / "state.json", {"position": position, "fingerprint": fingerprint})
        if folder.name.startswith("step"):
            rows = stored_rows(folder)
            for segment in folder.glob("curve-*"):
                segment.unlink()
            (folder / "curve.jsonl").write_text(as_text(rows))
            tensors = load_file(folder / "optimizer.safetensors")
            split = {key: key.rpartition(".") for key in tensors}
            old = {f"{order.index(split[key][0])}.{split[key][2]}": value for key, value in tensors.items()}
            save_file(old, folder / "optimizer.safetensors")
        sealed(folder)


def test_a_state_of_format_1_as_its_code_wrote_it(tmp_path: Path) -> None:
    workspace = workspaces.tiny(tmp_path / "workspace", **OF_FORMAT_1)
    workspace.work("phase1").mkdir(parents=True)
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(workspace.work("phase1"), filter="data")
    state = newest(workspace)
    assert state.damage() is None

    asked_for = identity_of(workspace, make_params(), "phase1")
    assert asked_for is not None
    ours = dict(asked_for.trajectory, initial_weights=state.state["fingerprint"]["initial_weights"])
    theirs = Record.from_json(state.state).identity
    assert replace(asked_for, trajectory=ours).changes(theirs) == [
        "train_phase1.attention_dropout 0.1 → 0.0",
        "voice_prompts filled up with silence → of one length",
    ]
    assert not ours.items() - theirs.trajectory.items() - SINCE_FORMAT_1.items()

    run = make_run(workspace, make_params())
    assert run.resume(state)
    assert (run.position.step, run.position.best_step, run.position.epoch) == (4, 3, 1)
    assert [row["step"] for row in run.curve.rows] == [0, 1, 2, 3, 3, 4]
    weights, moments = (load_file(state.folder / f"{name}.safetensors") for name in ("model", "optimizer"))
    assert all(map(torch.equal, run.gpt.state_dict().values(), (weights[name] for name in run.gpt.state_dict())))
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    assert len(moments) == 3 * len(parameters)
    for index, parameter in enumerate(parameters):
        for name, value in run.optimizer.state[parameter].items():
            assert torch.equal(value, moments[f"{index}.{name}"])
    run.take_step()


def test_from_format_1_it_goes_on_to_the_same_weights(workspace: Workspace, uninterrupted: dict[str, Any]) -> None:
    interrupt(workspace, 4)
    in_format_1(workspace)
    assert "format" not in newest(workspace).state
    train(workspace, make_params())
    ended = outcome(workspace)
    assert ended["best"] == uninterrupted["best"]
    same = ("model.safetensors", "optimizer.safetensors", "curve-00000000.jsonl")
    assert [ended["last state"][name] == uninterrupted["last state"][name] for name in same] == [True] * 3
    assert (ended["figures"], ended["csv"]) == (uninterrupted["figures"], uninterrupted["csv"])
    assert newest(workspace).state["format"] == FORMAT
    assert newest(workspace).state["newer_code"][0][0] == 4, "it went on under this code from there"


def test_of_other_parameters_a_state_of_format_1_is_parked(workspace: Workspace) -> None:
    interrupt(workspace, 4)
    in_format_1(workspace)
    with pytest.raises(Stopped):
        train(workspace, make_params(lr=5e-4), 1)
    assert [(run.step, run.params["train_phase1.lr"]) for run in parked(workspace)] == [(4, 1e-3)]


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("optimizer", lambda tensors: tensors.pop("text_head.bias.exp_avg"), "lacks text_head.bias.exp_avg"),
        ("optimizer", lambda tensors: tensors.update({"9.exp_avg": torch.ones(1)}), "unknown to this code, 9.exp_avg"),
        ("optimizer", lambda tensors: tensors.update({"text_head.bias.v": torch.ones(1)}), "text_head.bias.v"),
        ("model", lambda tensors: tensors.pop("text_head.bias"), "text_head.bias"),
        ("model", lambda tensors: tensors.update({"text_foot": torch.ones(1)}), "text_foot"),
    ],
)
def test_what_does_not_fit_is_named(workspace: Workspace, file: str, change: Change, said: str) -> None:
    folder = interrupt(workspace, 2).states()[-1].folder
    tensors = load_file(folder / f"{file}.safetensors")
    change(tensors)
    save_file(tensors, folder / f"{file}.safetensors")
    sealed(folder)
    with pytest.raises(UserError, match=said) as error:
        train(workspace, make_params())
    assert str(folder / f"{file}.safetensors") in str(error.value)
    assert folder.exists(), "nothing is given up"


@pytest.mark.parametrize("number", [3, None])
def test_a_format_of_the_future_is_refused(workspace: Workspace, number: int | None) -> None:
    folder = interrupt(workspace, 2).states()[-1].folder
    write_json(folder / "state.json", {**read_json(folder / "state.json"), "format": number})
    sealed(folder)
    shutil.rmtree(folder.parent / "best-00000000")
    shutil.rmtree(folder.parent / "step-00000000")
    with pytest.raises(UserError, match="is of no format that this code knows"):
        train(workspace, make_params())
    assert folder.exists()


def test_a_position_of_format_1_comes_back() -> None:
    train_sums = {"mel": 1.0, "mel_tokens": 1, "text": 2.0, "text_tokens": 2}
    content = {"step": 4, "evaluations_since_best": 1, "evaluations_at_target": 0, "train": train_sums}
    assert Position.from_json(content).step == 4
