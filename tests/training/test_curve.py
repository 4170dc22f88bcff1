"""The curve's file: whole rows alone, and the CSV of its evaluations."""

from pathlib import Path

from xtts_finetune.training.curve import COLUMNS, Curve


def test_rows_come_back(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    curve.sync()  # nothing there yet
    curve.append({"step": 0, "epoch": 0, "eval/mel_ce": 7.0})
    curve.append({"step": 1, "epoch": 0, "train/mel_ce": float("nan"), "train/grad_norm": float("inf")})
    again = Curve(curve.path)
    assert str(again.rows) == str(curve.rows)
    again.truncate(0)
    assert Curve(curve.path).rows == [{"step": 0, "epoch": 0, "eval/mel_ce": 7.0}]


def test_from_a_damaged_row_on_they_are_replayed(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n\0\0\xff\0\n{"step": 4}\n{"ste')
    assert [row["step"] for row in Curve(path).rows] == [1, 2]


def test_csv(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl")
    curve.append({"step": 0, "epoch": 0, "eval/mel_ce": 7.0, "eval/text_ce": 4.0})
    curve.append({"step": 1, "epoch": 0, "train/mel_ce": 6.9})
    evaluation = {"eval/mel_ce": 6.5, "eval/text_ce": 3.5, "mean/mel_ce": 6.9, "mean/text_ce": 3.75, "lr": 5e-6}
    curve.append({"step": 1, "epoch": 1, **evaluation})
    curve.publish(tmp_path / "curve.csv")
    header, start, end = (tmp_path / "curve.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert start == "0,0,nan,7,nan,4,nan"
    assert end == "1,1,6.9,6.5,3.75,3.5,5e-06"
