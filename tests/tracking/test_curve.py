"""The curve's file: whole rows alone, and the CSV of its evaluations."""

import errno
import os
import time
from pathlib import Path

import pytest

from xtts_finetune.tracking.curve import COLUMNS, Curve, as_text, parse_rows, read_csv, segments, stored_rows, write_csv


def test_rows_come_back(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    curve.append({"step": 0, "epoch": 0, "eval/mel_ce": 7.0})
    curve.append({"step": 1, "epoch": 0, "train/mel_ce": float("nan"), "train/grad_norm": float("inf")})
    again = Curve(curve.path)
    assert str(again.rows) == str(curve.rows)
    again.resume(0, [{"step": 0, "epoch": 0, "eval/mel_ce": 7.0}])
    assert Curve(curve.path).rows == curve.rows[:1]


def test_a_row_says_when_it_was(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    before = time.time_ns() // 1_000_000
    curve.append({"step": 1, "epoch": 0, "train/loss": 6.5})
    [row] = Curve(curve.path).rows
    assert before <= row["time"] <= time.time_ns() // 1_000_000
    assert "time" not in as_text([row]), "equal runs give equal text"


def test_a_state_has_a_file_for_every_thousand_steps(tmp_path: Path) -> None:
    rows = [{"step": step, "epoch": 0, "train/loss": 6.5} for step in (998, 999, 1000, 1001, 2500)]
    disk = [{"step": 999, "epoch": 0, "disk/free_bytes": 1.0}]  # logged when the save of that step is done
    parts = segments([*rows, *disk])
    assert list(parts) == ["curve-00000000.jsonl", "curve-00001000.jsonl", "curve-00002000.jsonl"]
    for name, part in parts.items():
        (tmp_path / name).write_text(as_text(part))
    assert stored_rows(tmp_path) == rows
    assert {name: as_text(part) for name, part in segments(rows[:3]).items()}.items() >= {
        ("curve-00000000.jsonl", as_text(parts["curve-00000000.jsonl"]))
    }, "what is complete is the same in every later state"


def test_from_a_damaged_row_on_they_are_replayed(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n\0\0\xff\0\n{"step": 4}\n{"ste')
    assert [row["step"] for row in Curve(path).rows] == [1, 2]


@pytest.mark.parametrize(
    "line", ["5", "null", "[]", "{}", '"step"', '{"step": "3"}', '{"step": 3.0}', '{"step": true}']
)
def test_a_row_needs_its_step(tmp_path: Path, line: str) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": 2}}\n{line}\n{{"step": 4}}\n')
    assert [row["step"] for row in Curve(path).rows] == [1, 2]


def test_csv(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    curve.append({"step": 0, "epoch": 0, "eval/mel_ce": 7.0, "eval/text_ce": 4.0})
    curve.append({"step": 1, "epoch": 0, "train/mel_ce": 6.9})
    evaluation = {"eval/mel_ce": 6.5, "eval/text_ce": 3.5, "eval_ema/mel_ce": 6.25, "eval_ema/text_ce": 3.25}
    evaluation |= {
        "eval_train/mel_ce": 6.4,
        "eval_train/text_ce": 3.2,
        "mean/mel_ce": 6.9,
        "mean/text_ce": 3.75,
        "lr": 5e-6,
    }
    curve.append({"step": 1, "epoch": 1, **evaluation})
    write_csv(curve.rows, tmp_path / "curve.csv")
    header, start, end = (tmp_path / "curve.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert start == "0,0,nan,7,nan,nan,nan,4,nan,nan,nan"
    assert end == "1,1,6.9,6.5,6.25,6.4,3.75,3.5,3.25,3.2,5e-06"


def test_steps_of_a_csv_are_whole_numbers(tmp_path: Path) -> None:
    write_csv([{"step": 1_234_567, "epoch": 1_000_000, "eval/mel_ce": 6.5}], tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text().splitlines()[1].startswith("1234567,1000000,nan,6.5,")


def test_a_state_carries_what_is_the_runs_own(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    curve.append({"step": 1, "epoch": 0, "train/loss": 6.5, "train/tokens_per_second": 99.0})
    curve.append({"step": 1, "epoch": 0, "disk/free_bytes": 1e9})
    lasting = list(parse_rows(as_text(curve.rows)))
    assert lasting == [{"step": 1, "epoch": 0, "train/loss": 6.5}]
    curve.append({"step": 2, "epoch": 0, "train/loss": 6.4})
    again = Curve(curve.path)
    again.resume(1, lasting)
    assert again.rows == curve.rows[:2], "what the file knows beside it stays"
    curve.path.unlink()
    again = Curve(curve.path)
    again.resume(1, lasting)
    assert again.rows == Curve(curve.path).rows == lasting


def test_a_full_disk_makes_rows_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes half of a row before it is full."""
    curve, write = Curve(tmp_path / "curve.jsonl"), os.write
    curve.append({"step": 1})

    def full(descriptor: int, content: bytes) -> int:
        if len(content) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("xtts_finetune.tracking.curve.os.write", full)
        curve.append({"step": 2})
        curve.append({"step": 3})
    assert [row["step"] for row in Curve(curve.path).rows] == [1]
    assert curve.path.read_text().endswith("}\n")
    curve.append({"step": 4})
    assert [row["step"] for row in Curve(curve.path).rows] == [1, 2, 3, 4]


def test_a_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "epoch": 0, "eval/mel_ce": 7.13, "eval/text_ce": 5.9},
        {"step": 67, "epoch": 1, "eval/mel_ce": 5.25, "eval/text_ce": 3.5, "mean/mel_ce": 6.5},
    ]
    write_csv(rows, tmp_path / "curve.csv")
    assert read_csv(tmp_path / "curve.csv") == rows


@pytest.mark.parametrize(
    "text", ["", "step\n", "step,epoch\ninf,1\n", "step,epoch\n1e400,1\n", "a\0b\n1\n", "step,epoch\n1\n"]
)
def test_a_damaged_csv_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "curve.csv").write_text(text, encoding="utf-8")
    assert read_csv(tmp_path / "curve.csv") == []
