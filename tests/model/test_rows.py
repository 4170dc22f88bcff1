"""The rows of new tokens: what they start as, and that the old ones stay what they were."""

from pathlib import Path

import pytest
import torch
from damage import flip_byte

from xtts_finetune.core.errors import UserError
from xtts_finetune.model.rows import BY_TOKEN, grown, new_rows, write_rows

OLD = 5


def state(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes: tuple[tuple[int, ...], ...] = ((OLD, 3), (OLD, 3), (OLD,))
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in zip(BY_TOKEN, shapes, strict=True)}
    return {**tensors, "mel_head.weight": torch.ones(2, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_token_starts_as_the_mean_of_what_spelled_it(dtype: torch.dtype) -> None:
    rows = new_rows(state(dtype), [[1, 3], [], [5, 0]])
    for name in BY_TOKEN:
        table = state(dtype)[name].float()
        first = table[[1, 3]].mean(0)
        expected = torch.stack([first, table.mean(0), (first + table[0]) / 2])
        assert rows[name].dtype == dtype
        torch.testing.assert_close(rows[name].float(), expected, atol=1e-3 if dtype == torch.float16 else 1e-6, rtol=0)


def test_old_rows_are_the_same_bits(tmp_path: Path) -> None:
    digest = write_rows(new_rows(state(), [[1], []]), tmp_path / "rows")
    whole = grown(state(), tmp_path / "rows", digest)
    assert whole.keys() == state().keys()
    for name, tensor in state().items():
        assert torch.equal(whole[name][: len(tensor)], tensor)
        assert len(whole[name]) == len(tensor) + (2 if name in BY_TOKEN else 0)


def test_without_an_extension_nothing_is_read(tmp_path: Path) -> None:
    before = state()
    assert grown(before, tmp_path / "rows", None) is before


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_rows_that_are_not_those_of_prepare(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "rows"
    digest = write_rows(new_rows(state(), [[1]]), file)
    if fault == "gone":
        file.unlink()
    else:
        flip_byte(file)
    with pytest.raises(UserError, match="is not the file that prepare wrote"):
        grown(state(), file, digest)
