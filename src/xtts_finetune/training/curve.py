"""The learning curve of a phase: a row per step and evaluation, in work/ while it runs and in reports/ at its end."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.files import fsync_path, write_text

Row = dict[str, Any]  # {"step": int, "epoch": int, metric name: float}

# What dvc plots show: a row per evaluation; train figures are means since the evaluation before.
COLUMNS = ("step", "epoch", "train_mel_ce", "eval_mel_ce", "train_text_ce", "eval_text_ce", "lr")


class Curve:
    """An append-only file of rows, kept in step with the states by `sync` and `truncate`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            self.rows = list(_whole_rows(path))

    def append(self, row: Row) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Force it to the disk: before a state that refers to its rows is published."""
        if self.path.exists():
            fsync_path(self.path)

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`, which will be replayed."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def evaluations(self) -> list[Row]:
        return [row for row in self.rows if "eval/mel_ce" in row]

    def publish(self, path: Path) -> None:
        """Write the evaluations as CSV with COLUMNS."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.evaluations():
            writer.writerow({name: _cell(row, name) for name in COLUMNS})
        write_text(path, text.getvalue())


def _whole_rows(path: Path) -> Iterator[Row]:
    """The rows up to the first that a kill or a power cut left damaged: from there on, steps are replayed."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield row


def _cell(row: Row, column: str) -> str:
    """Train figures of a row stand under `mean/…`; before the first step there are none.

    Their cells say nan: dvc plots show draws an empty one as 0.
    """
    name = column.replace("train_", "mean/").replace("eval_", "eval/")
    return f"{row.get(name, math.nan):.6g}"
