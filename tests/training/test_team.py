"""What a leader tells the others when something fails."""

import pytest
import torch
import torch.distributed as dist

from xtts_finetune.core.errors import EXIT_USER
from xtts_finetune.training.team import Order, PeerLost, Task, Team


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that were given: their tasks."""
    given: list[int] = []
    monkeypatch.setattr(dist, "broadcast", lambda tensor, leader: given.append(int(tensor[0])))
    return given


@pytest.fixture
def team(orders: list[int]) -> Team:
    team = Team(0, 2, 0, dist.HashStore())
    team.begin({})
    return team


def test_between_orders_the_others_are_let_go(team: Team, orders: list[int]) -> None:
    with team.ordered(Order(Task.EVALUATE)):
        pass
    team.end("phase1", EXIT_USER)
    assert orders == [Task.BEGIN, Task.EVALUATE, Task.END]


def test_in_the_middle_of_one_they_are_told_nothing(team: Team, orders: list[int]) -> None:
    """They wait in another collective: this one's would be waited for by both, for half an hour."""
    with pytest.raises(ValueError, match="full"), team.ordered(Order(Task.EVALUATE)):
        raise ValueError("full")
    team.end("phase1", EXIT_USER)
    assert orders == [Task.BEGIN, Task.EVALUATE]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("Connection closed by peer"), PeerLost),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ],
)
def test_ones_own_fault_is_not_the_others(
    team: Team, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def fails(tensor: torch.Tensor) -> None:
        raise raised

    monkeypatch.setattr(dist, "all_reduce", fails)
    with pytest.raises(expected, match=str(raised)):
        team.add_up(torch.zeros(1))
