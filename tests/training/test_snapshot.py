"""Snapshots of weights and optimiser: of one moment, in the same memory, and back bit for bit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from making.params import TINY_PHASE, make_params
from making.prepared import TEXT
from safetensors.torch import load_file
from torch import Tensor
from workbench import make_run

from xtts_finetune.checkpoints.identity import FORMAT
from xtts_finetune.core.layout import OPTIMIZER, Workspace
from xtts_finetune.diskspace.sizes import OPTIMIZER_BYTES_PER_PARAMETER
from xtts_finetune.model import mini, xtts
from xtts_finetune.model.xtts import GPT
from xtts_finetune.training.optim import build_optimizer
from xtts_finetune.training.snapshot import Snapshot, load_tensors

WEIGHTS = "model.safetensors"
MAPS = Path("/proc/self/maps")
both = pytest.mark.parametrize("optim", ["adamw", "adamw8bit"])


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


def make_optimizer(gpt: GPT, optim: str) -> torch.optim.Optimizer:
    return build_optimizer(gpt, TINY_PHASE.model_copy(update={"optim": optim}))


def step(gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
    """As if a batch had been trained on."""
    for parameter in gpt.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def tiny(workspace: Workspace, optim: str) -> tuple[GPT, torch.optim.Optimizer]:
    run = make_run(workspace, make_params(optim=optim))
    return run.gpt, run.optimizer


def take(snapshot: Snapshot, worker: ThreadPoolExecutor) -> None:
    snapshot.refresh(worker).result()


def written(snapshot: Snapshot, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    snapshot.write_weights(folder)
    snapshot.write_optimizer(folder)
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, OPTIMIZER)}


def first_moment(
    gpt: GPT, optimizer: torch.optim.Optimizer, snapshot: Snapshot, worker: ThreadPoolExecutor, folder: Path
) -> dict[str, bytes]:
    """What a snapshot of the first step writes."""
    step(gpt, optimizer)
    take(snapshot, worker)
    return written(snapshot, folder)


def addresses(snapshot: Snapshot) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in (snapshot.weights | snapshot.state).items()}


@both
def test_a_snapshot_is_of_its_moment(
    workspace: Workspace, tmp_path: Path, optim: str, worker: ThreadPoolExecutor
) -> None:
    gpt, optimizer = tiny(workspace, optim)
    snapshot = Snapshot(gpt, optimizer)
    before = first_moment(gpt, optimizer, snapshot, worker, tmp_path / "before")
    step(gpt, optimizer)
    assert written(snapshot, tmp_path / "later") == before
    take(snapshot, worker)
    after = written(snapshot, tmp_path / "after")
    assert after[WEIGHTS] != before[WEIGHTS]
    assert after[OPTIMIZER] != before[OPTIMIZER]


@both
def test_it_is_of_its_moment_however_late_it_is_copied(
    workspace: Workspace, tmp_path: Path, optim: str, worker: ThreadPoolExecutor
) -> None:
    """What would change the weights waits; on a GPU with room it need not, as they are copied there."""
    gpt, optimizer = tiny(workspace, optim)
    snapshot = Snapshot(gpt, optimizer)
    before = first_moment(gpt, optimizer, snapshot, worker, tmp_path / "before")
    is_idle = Event()
    worker.submit(is_idle.wait)
    copied = snapshot.refresh(worker)

    def train_on() -> None:
        snapshot.before_update()
        step(gpt, optimizer)

    training = Thread(target=train_on)
    training.start()
    training.join(0.5)
    is_idle.set()
    training.join()
    copied.result()
    assert written(snapshot, tmp_path / "late") == before


@both
def test_later_snapshots_take_no_further_memory(workspace: Workspace, optim: str, worker: ThreadPoolExecutor) -> None:
    gpt, optimizer = tiny(workspace, optim)
    snapshot = Snapshot(gpt, optimizer)
    take(snapshot, worker)
    assert not snapshot.state
    weights = addresses(snapshot)
    step(gpt, optimizer)
    take(snapshot, worker)
    whole = addresses(snapshot)
    assert snapshot.state
    assert weights.items() < whole.items()
    step(gpt, optimizer)
    take(snapshot, worker)
    assert addresses(snapshot) == whole


def test_what_an_optimiser_no_longer_holds_is_not_written(
    workspace: Workspace, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    gpt, optimizer = tiny(workspace, "adamw")
    snapshot = Snapshot(gpt, optimizer)
    step(gpt, optimizer)
    take(snapshot, worker)
    optimizer.state.clear()
    take(snapshot, worker)
    written(snapshot, tmp_path / "state")
    assert load_file(tmp_path / "state" / OPTIMIZER) == {}


def held(optimizer: torch.optim.Optimizer) -> list[dict[str, tuple[type, object]]]:
    """All that it remembers, by parameter, with types."""

    def content(value: object) -> object:
        return (value.dtype, value.device, value.tolist()) if isinstance(value, Tensor) else value

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [{name: (type(v), content(v)) for name, v in optimizer.state[p].items()} for p in parameters]


@both
def test_what_is_written_comes_back(
    workspace: Workspace, tmp_path: Path, optim: str, worker: ThreadPoolExecutor
) -> None:
    gpt, optimizer = tiny(workspace, optim)
    step(gpt, optimizer)
    step(gpt, optimizer)
    snapshot = Snapshot(gpt, optimizer)
    take(snapshot, worker)
    written(snapshot, tmp_path / "state")
    other, fresh = tiny(workspace, optim)
    groups = [{**group, "params": len(group["params"])} for group in fresh.param_groups]
    load_tensors(tmp_path / "state", other, fresh, None, FORMAT)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in gpt.state_dict().items())
    assert held(fresh) == held(optimizer)
    assert [{**group, "params": len(group["params"])} for group in fresh.param_groups] == groups


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux")
@both
def test_a_state_gone_on_from_is_not_held_open(
    workspace: Workspace, tmp_path: Path, optim: str, worker: ThreadPoolExecutor
) -> None:
    """So that its room on disk is free once it is deleted."""
    gpt, optimizer = tiny(workspace, optim)
    step(gpt, optimizer)
    snapshot = Snapshot(gpt, optimizer)
    take(snapshot, worker)
    written(snapshot, tmp_path / "state")
    load_tensors(tmp_path / "state", gpt, optimizer, None, FORMAT)
    assert str(tmp_path) not in MAPS.read_text()


def test_before_the_first_step_there_is_nothing_to_remember(
    workspace: Workspace, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    gpt, optimizer = tiny(workspace, "adamw8bit")
    snapshot = Snapshot(gpt, optimizer)
    take(snapshot, worker)
    written(snapshot, tmp_path / "state")
    step(gpt, optimizer)
    load_tensors(tmp_path / "state", gpt, optimizer, None, FORMAT)
    assert not optimizer.state


def test_sizes_of_mini(tmp_path: Path, worker: ThreadPoolExecutor) -> None:
    """What the disk is planned by."""
    mini.train_vocabulary([(TEXT, "en")], tmp_path / "vocab.json")
    gpt = xtts.build_gpt(xtts.default_args(**mini.GPT_SHAPE), xtts.build_tokenizer(tmp_path / "vocab.json"))
    sizes = {}
    for optim, expected in OPTIMIZER_BYTES_PER_PARAMETER.items():
        optimizer = make_optimizer(gpt, optim)
        step(gpt, optimizer)
        snapshot = Snapshot(gpt, optimizer)
        take(snapshot, worker)
        sizes[optim] = len(written(snapshot, tmp_path / optim)[OPTIMIZER])
        assert sizes[optim] / xtts.sizes(gpt)["parameters"] == pytest.approx(expected, rel=0.02)
    assert sizes["adamw8bit"] < 0.3 * sizes["adamw"]


@pytest.mark.gpu
@pytest.mark.parametrize("free", [0, 1 << 40], ids=["no room for a copy there", "room"])
@both
def test_from_a_gpu_and_back(
    workspace: Workspace,
    tmp_path: Path,
    optim: str,
    worker: ThreadPoolExecutor,
    free: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    gpt, optimizer = tiny(workspace, optim)
    assert gpt.mel_head.weight.is_cuda
    snapshot = Snapshot(gpt, optimizer)
    step(gpt, optimizer)
    moment = held(optimizer)
    copied = snapshot.refresh(worker)
    snapshot.before_update()
    step(gpt, optimizer)
    copied.result()
    assert all(tensor.is_pinned() for tensor in snapshot.weights.values())
    before = written(snapshot, tmp_path / "state")
    other, fresh = tiny(workspace, optim)
    load_tensors(tmp_path / "state", other, fresh, None, FORMAT)
    assert held(fresh) == moment
    again = Snapshot(other, fresh)
    take(again, worker)
    assert written(again, tmp_path / "again") == before
