"""`xtts-finetune plan` as it is read."""

import re
import shutil
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import Checkout
from making.params import changed, make_params, of_the_real_model
from making.project import PROJECT
from workbench import train

from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.budget import SMALL_THINGS
from xtts_finetune.planning.command import Request, less_lines, plan_lines
from xtts_finetune.planning.longest import Clips, longest_batch
from xtts_finetune.planning.vram import parsed_size

GIB = 1 << 30


def write(workspace: Workspace, params: Params) -> None:
    workspace.root.mkdir(exist_ok=True, parents=True)
    workspace.params.write_text(yaml.safe_dump(params.model_dump()), encoding="utf-8")


def plan(workspace: Workspace, vram: int | None = 8 * GIB, rate: float | None = None) -> str:
    return "\n".join(plan_lines(workspace, Request(load_params(workspace.params), vram, rate)))


def own_part(workspace: Workspace, rate: float | None = None, vram: int | None = 8 * GIB) -> str:
    """What comes before the table, which takes longer."""
    lines = plan_lines(workspace, Request(load_params(workspace.params), vram, rate))
    return "\n".join(takewhile(lambda line: not line.startswith("GiB needed"), lines))


def add_recordings(workspace: Workspace, clips: int) -> None:
    (workspace.data / "wavs").mkdir(parents=True)
    rows = "".join(f"clip{number}|Text {number}.\n" for number in range(clips))
    (workspace.data / "metadata.csv").write_text(rows, encoding="utf-8")
    for number in range(clips):
        (workspace.data / "wavs" / f"clip{number}.wav").touch()


def test_of_prepared_clips(workspace: Workspace) -> None:
    """9 clips, in batches of 2, 2 of them a step: 3 steps an epoch."""
    write(workspace, make_params())
    said = own_part(workspace, rate=10.0)
    assert "mini: as prepared" in said
    assert "the longest of prepared/train.jsonl" in said
    assert re.search(r"phase1: 6 steps in 2 epochs, \d\.\d h at 10 tokens/s \(stated\)", said)
    assert "\n    fits in 8.00 GiB\n" in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "why"),
    [("base", "is of another base"), ("recordings", "was made of other recordings than data.dvc names")],
)
def test_clips_that_the_next_prepare_makes_others_are_not_counted(workspace: Workspace, what: str, why: str) -> None:
    params = make_params()
    write(workspace, params if what == "recordings" else params.model_copy(update={"base": "xtts_v2"}))
    add_recordings(workspace, 20)
    if what == "recordings":
        entry = {"path": "data", "md5": f"{'1' * 32}.dir"}
        (workspace.root / "data.dvc").write_text(yaml.safe_dump({"outs": [entry]}))
        before = {"stages": {"prepare": {"deps": [entry | {"md5": f"{'2' * 32}.dir"}]}}}
        workspace.dvc_lock.write_text(yaml.safe_dump(before))
    said = own_part(workspace, rate=10.0)
    assert "clips      as long as params.yaml allows: 11.6 s and 200 text tokens\n" in said
    assert f"           not those in prepared/, which {why}\n" in said
    assert "phase1: about 10 steps in 2 epochs; hours are known when prepare has run" in said  # 17 clips, 4 a step
    assert max(map(len, said.splitlines())) <= 100


LORA_OF_XTTS = {
    "method": "lora",
    "lora": {"rank": 16, "alpha": 32.0, "dropout": 0.05, "layers": ["c_attn", "c_proj", "c_fc"], "in_full": []},
}
ALL, ADAPTERS = 441_018_563, 7_864_320  # numbers that are trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "trained", "whole"),
    [({}, ALL, 0), ({"optim": "adamw8bit", "ema": 0.99}, ALL, 0), (LORA_OF_XTTS, ADAPTERS, ALL)],
    ids=["full", "8 bits and an average", "lora"],
)
def test_the_disk_of_a_base_that_is_not_prepared(
    workspace: Workspace, changes: dict[str, Any], trained: int, whole: int
) -> None:
    """Mini is, here, and trained. Phase 2 comes on top of what phase 1 leaves; keep_last is 1."""
    for phase in PHASES:
        workspace.model(phase).mkdir(parents=True)
    write(workspace, of_the_real_model(keep_last=1, **changes))
    (workspace.root / ".dvc").mkdir(exist_ok=True)
    shutil.copy(PROJECT / ".dvc" / "config", workspace.root / ".dvc" / "config")  # links, no copies
    said = own_part(workspace)
    weights, state = 4 * trained, (4 + 2.04 + 4 if "ema" in changes else 12) * trained
    phase1 = 2 * state + weights
    sums = {"phase1": phase1, "phase2": state + weights + phase1 + 4 * whole}
    for phase, expected in sums.items():
        [(size, unit)] = re.findall(rf"^{phase}: disk at the peak ([\d.]+) (\w+) of", said, re.MULTILINE)
        assert float(size) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(expected + SMALL_THINGS, rel=0.01)


def test_the_table_and_what_is_recommended(workspace: Workspace) -> None:
    write(workspace, make_params())
    said = plan(workspace)
    rows = re.findall(
        r"^    (?:full|lora) +(fp32|bf16) +(no|yes) +(adamw|adamw8bit)((?: +[\d.]+)+)$", said, re.MULTILINE
    )
    assert len(rows) == 16
    assert all(len(cells.split()) == 4 for *_, cells in rows), "batches of 1, 2, 4 and 8"
    lines = said[said.index("in params.yaml, in train_phase1 and train_phase2:") :].splitlines()[1:]
    pasted = yaml.safe_load("\n".join(lines))
    assert pasted == {
        "batch_size": 4,
        "accumulate": 1,
        "optim": "adamw",
        "precision": "fp32",
        "gradient_checkpointing": False,
    }
    make_params(**pasted)


@pytest.mark.slow
def test_phases_that_differ_are_planned_apart(workspace: Workspace) -> None:
    params = make_params(batch_size=1, accumulate=1)
    second = params.train_phase2.model_copy(update={"batch_size": 2})
    write(workspace, params.model_copy(update={"train_phase2": second}))
    said = plan(workspace)
    assert "phase1: full" in said
    assert "phase2: full" in said
    assert said.count("recommended:") == 2


@pytest.mark.parametrize(("first", "second", "together"), [(0.1, 0.2, True), (0.0, 0.1, False)])
def test_a_dropout_of_nothing_needs_no_mask(workspace: Workspace, first: float, second: float, together: bool) -> None:
    write(workspace, changed(make_params(dropout=first), phases=["phase2"], dropout=second))
    assert ("phase1 and phase2: full" in own_part(workspace)) == together


@pytest.mark.slow
def test_adapters_where_all_of_it_does_not_fit(tmp_path: Path) -> None:
    """The lines to paste make a phase of it."""
    workspace = Workspace(tmp_path / "of XTTS v2")
    write(workspace, of_the_real_model(batch_size=1))
    said = plan(workspace, vram=4 * GIB)
    lines = said[said.index("in params.yaml, in train_phase1 and train_phase2:") :].splitlines()[1:]
    pasted = yaml.safe_load("\n".join(lines))
    assert (pasted["method"], pasted["train_only"], pasted["lora"]["rank"]) == ("lora", None, 16)
    assert make_params(**pasted).train_phase1.trained.adapters


def test_what_nothing_fits_in(workspace: Workspace) -> None:
    write(workspace, make_params())
    said = plan(workspace, vram=GIB // 4)
    assert "DOES NOT FIT in 256 MiB" in said
    assert "nothing fits in 256 MiB" in said
    assert len(re.findall(r"\(0\.\d\d\)", said)) >= 8


def test_the_rate_is_the_one_measured_here(workspace: Workspace) -> None:
    params = make_params()
    write(workspace, params)
    assert "hours are known by a rate" in own_part(workspace, vram=None)
    train(workspace, params)
    assert re.search(r"h at [\d,]+ tokens/s \(measured in phase1 here\)", own_part(workspace, vram=None))
    assert "tokens/s" not in own_part(workspace), "a GPU that need not be here is not this machine"


def test_a_rate_of_another_base_is_none(workspace: Workspace) -> None:
    """Of the same clips, from weights that these parameters do not ask for."""
    params = make_params()
    train(workspace, params)
    write(workspace, params.model_copy(update={"base": "xtts_v2"}))
    assert "tokens/s" not in own_part(workspace, vram=None)


def test_a_card_of_a_size_is_not_the_one_that_is_here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params()
    write(workspace, params)
    train(workspace, params)
    lines = plan_lines(workspace, Request(load_params(workspace.params), 8 * GIB, None))
    with monkeypatch.context() as patched:  # until something is traced, which would ask CUDA
        patched.setattr("torch.cuda.is_available", lambda: True)
        assert "" in islice(lines, 4)
    assert "tokens/s" not in "\n".join(takewhile(lambda line: not line.startswith("GiB needed"), lines))


@pytest.mark.parametrize("lines", [0, 20])
def test_before_anything_is_there(tmp_path: Path, lines: int) -> None:
    """XTTS v2's shapes are known without a file of it."""
    workspace = Workspace(tmp_path / "new")
    write(workspace, of_the_real_model(batch_size=1))
    if lines:
        add_recordings(workspace, lines)
    text = own_part(workspace, rate=1.0)
    assert "xtts_v2: as published" in text
    assert "441,018,563" in text
    expected = "about 255 steps in 15 epochs" if lines else "15 epochs; how many steps is known when"
    assert f"phase1: {expected}" in text  # 20 lines, 3 of them to evaluate
    assert not lines or "hours are known when prepare has run" in text


@pytest.mark.slow
def test_less_than_a_run_needs(workspace: Workspace) -> None:
    write(workspace, make_params(batch_size=2, accumulate=1))
    said = "\n".join(less_lines(workspace, "phase1"))
    needed = re.search(r"phase1 as it is: ([\d.]+) GiB", said)
    assert needed
    assert re.search(rf"in brackets what does not fit in {needed[1]} GiB", said)
    assert "in params.yaml, in train_phase1:" in said


@pytest.mark.parametrize(("most", "clips"), [(None, 4), (10_000, 4), (1000, 4), (300, 1), (1, 1)])
def test_a_batch_has_no_more_tokens_than_it_may(most: int | None, clips: int) -> None:
    allowed = Clips.allowed(make_params().prepare)  # 250 codes and 200 text tokens each
    batch = longest_batch(allowed, 4, most)
    tokens = int(batch.text_lengths.sum() + batch.code_lengths.sum())
    assert len(batch.text_lengths) == clips
    assert tokens <= max(most or 1800, 450)
    assert tokens == 1800 or (most and most < 1800)


def test_no_more_clips_are_looked_at_than_there_are() -> None:
    allowed = Clips.allowed(make_params().prepare)
    assert len(longest_batch(allowed, 10**9, 1000).text_lengths) <= 500


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * GIB), ("8", 8 * GIB), ("7.5 gb", int(7.5 * GIB)), ("512MiB", GIB // 2)]
)
def test_sizes(text: str, size: int) -> None:
    assert parsed_size(text) == size


@pytest.mark.parametrize("text", ["eight", "", "-8GiB", "8TiB", "0", "0.0000000001", "8" * 400, "8GiB free"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size of a memory"):
        parsed_size(text)


@pytest.mark.slow
def test_as_it_is_typed(fresh: Checkout) -> None:
    said = fresh.run("xtts-finetune", "plan", "--vram", "8GiB")
    assert "mini: as prepare will build it" in said.stdout
    assert "recommended: full, fp32, adamw, no checkpointing, batches of 4" in said.stdout


def test_slips_as_they_are_typed(fresh: Checkout) -> None:
    wrong = fresh.run("xtts-finetune", "plan", "--vram", "eight", code=2)
    assert "'eight' is no size of a memory, as 8GiB is one" in wrong.stderr
    missing = fresh.run("xtts-finetune", "plan", "--params", "none.yaml", code=2)
    assert "none.yaml" in missing.stderr
    assert "Traceback" not in missing.stderr
