"""The learning curve of a phase: a row per step, evaluation and save."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.files import write_text

Row = dict[str, Any]  # {"step": int, "epoch": int, metric name: float}

# What dvc plots show: a row per evaluation; train figures are means since the evaluation before.
COLUMNS = ("step", "epoch", "train_mel_ce", "eval_mel_ce", "train_text_ce", "eval_text_ce", "lr")
_OF_THE_MACHINE = ("train/tokens_per_second", "disk/")  # not the run's own: they differ from one time to the next


class Curve:
    """The rows of a run, also in a file, which tells what the run does now.

    Nothing depends on the file: every state carries the rows up to its step (`lasting`). A full disk costs it
    nothing, either: rows wait in memory until they fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = list(read_rows(path))
        self._unwritten = ""

    def append(self, row: Row) -> None:
        self.rows.append(row)
        self._unwritten += _line(row)
        try:
            with self.path.open("a+b") as stream:
                _append_whole(stream.fileno(), self._unwritten.encode())
        except OSError as error:
            if not is_disk_full(error):
                raise
        else:
            self._unwritten = ""

    def lasting(self) -> str:
        """The rows as JSON lines, without what differs from one time to the next: equal runs give equal text."""
        return "".join(map(_line, _lasting(self.rows)))

    def resume(self, step: int, lasting: str) -> None:
        """Go back to the rows up to `step`, which a state brought as `lasting`; later ones will be replayed."""
        known = [row for row in self.rows if row["step"] <= step]
        stored = list(parse_rows(lasting))
        self.rows = known if _lasting(known) == stored else stored
        self._unwritten = ""
        write_text(self.path, "".join(map(_line, self.rows)))

    def evaluations(self) -> list[Row]:
        return [row for row in self.rows if "eval/mel_ce" in row]


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the evaluations among `rows` as CSV with COLUMNS."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if "eval/mel_ce" in row:
            writer.writerow({name: _cell(row, name) for name in COLUMNS})
    write_text(path, text.getvalue())


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a curve's file, up to the first that a kill or a power cut left damaged."""
    return parse_rows(path.read_bytes().decode("utf-8", "replace")) if path.exists() else iter(())


def parse_rows(text: str) -> Iterator[Row]:
    """The rows that `Curve.lasting` gave as text."""
    for line in text.split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield row


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _lasting(rows: list[Row]) -> list[Row]:
    kept = [{name: value for name, value in row.items() if not name.startswith(_OF_THE_MACHINE)} for row in rows]
    return [row for row in kept if row.keys() > {"step", "epoch"}]


def _append_whole(descriptor: int, content: bytes) -> None:
    """Write all of `content` at the end of the file, or nothing."""
    end = os.fstat(descriptor).st_size
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _cell(row: Row, column: str) -> str:
    """Train figures of a row stand under `mean/…`; before the first step there are none.

    Their cells say nan: dvc plots show draws an empty one as 0.
    """
    name = column.replace("train_", "mean/").replace("eval_", "eval/")
    return f"{row.get(name, math.nan):.6g}"
