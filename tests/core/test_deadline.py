"""How long a run may take, as people write it, and as its stages hear it."""

import pytest

from xtts_finetune.core.deadline import UNTIL, deadline, seconds_of, time_is_up
from xtts_finetune.core.errors import UserError


@pytest.mark.parametrize(
    ("written", "seconds"), [("6h", 21_600), ("90m", 5_400), ("1h30m", 5_400), ("1.5h", 5_400), ("2d", 172_800)]
)
def test_times(written: str, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize("written", ["", "6", "6 h", "h", "-1h", "6h!", "0s", "1..5h", "1e3s", "\u0666h"])
def test_what_is_none(written: str) -> None:
    with pytest.raises(ValueError, match="write it as 6h, 90m or 1h30m"):
        seconds_of(written)


def test_without_one_time_is_never_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(UNTIL, raising=False)
    assert deadline() is None
    assert not time_is_up()


def test_one_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNTIL, "noon")
    with pytest.raises(UserError, match=f"{UNTIL}\n +is 'noon', no number of seconds"):
        time_is_up()
