"""The learning curve of a phase: a row per step, evaluation and save."""

import csv
import io
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.core.disk import is_disk_full
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import CURVE, curve_segment, is_curve_segment

Row = dict[str, Any]  # {"step": int, "epoch": int, "time": ms since 1970, metric name: float}

# Of reports/curve_<phase>.csv, by their names in a row. `train` figures are means of the steps since the evaluation
# before, with dropout and of weights that moved; `eval_train` ones are of train clips, measured as the eval split is.
COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "train_mel_ce": "mean/mel_ce",
    "eval_mel_ce": "eval/mel_ce",
    "eval_ema_mel_ce": "eval_ema/mel_ce",
    "eval_train_mel_ce": "eval_train/mel_ce",
    "train_text_ce": "mean/text_ce",
    "eval_text_ce": "eval/text_ce",
    "eval_ema_text_ce": "eval_ema/text_ce",
    "eval_train_text_ce": "eval_train/text_ce",
    "lr": "lr",
}
_WHOLE = ("step", "epoch")  # counts: 1000000, where a figure is 1e+06
SEGMENT = 1000  # steps, whose rows are one file of a state
_OF_THE_MACHINE = (
    "time",
    "train/tokens_per_second",
    "disk/",
)  # they differ from one time to the next


class Curve:
    """The rows of a run, also in a file, which tells what the run does now.

    Nothing depends on the file: every state carries the rows up to its step (`segments`). A full disk costs it
    nothing, either: rows wait in memory until they fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = list(read_rows(path))
        self._unwritten = ""

    def append(self, row: Row) -> None:
        row = {**row, "time": time.time_ns() // 1_000_000}
        self.rows.append(row)
        self._unwritten += _line(row)
        try:
            with self.path.open("a+b") as stream:
                append_whole(stream.fileno(), self._unwritten.encode())
        except OSError as error:
            if not is_disk_full(error):
                raise
        else:
            self._unwritten = ""

    def rows_until(self, step: int) -> list[Row]:
        return [row for row in self.rows if row["step"] <= step]

    def resume(self, step: int, stored: list[Row]) -> None:
        """Go back to the rows up to `step`, which a state brought as `stored_rows`; later ones will be replayed."""
        known = self.rows_until(step)
        self.rows = known if _lasting(known) == stored else stored
        self._unwritten = ""
        write_text(self.path, "".join(map(_line, self.rows)))


def last_step(rows: Iterable[Row]) -> int | None:
    """The furthest one: rows that tell of a save come behind those of later steps. None where there is no row."""
    return max((row["step"] for row in rows), default=None)


def as_text(rows: Iterable[Row]) -> str:
    """`rows` as JSON lines, without what differs from one time to the next: equal runs give equal text."""
    return "".join(map(_line, _lasting(rows)))


def segments(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """`rows` as the files of a state: one for every SEGMENT steps. All but the last are in the state before, too."""
    parts: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["step"] // SEGMENT].append(row)
    return {curve_segment(number * SEGMENT): parts[number] for number in sorted(parts)}


def stored_rows(state: Path) -> list[Row]:
    """The rows in the folder of a state; those of format 1 have one file of all."""
    files = sorted(file for file in state.iterdir() if file.name == CURVE or is_curve_segment(file.name))
    return [row for file in files for row in read_rows(file)]


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the evaluations among `rows` as CSV with COLUMNS.

    What there is not, as train figures before the first step, is nan: dvc plots show draws an empty cell as 0.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if "eval/mel_ce" in row:
            figures = {column: f"{row.get(name, math.nan):.6g}" for column, name in COLUMNS.items()}
            writer.writerow(figures | {name: row[name] for name in _WHOLE if name in row})
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Row]:
    """What `write_csv` wrote, as `parse_csv`; nothing where it is not there."""
    try:
        return parse_csv(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def parse_csv(text: str) -> list[Row]:
    """The rows of a curve's CSV, without what is nan; nothing where it is damaged: then it says nothing."""
    rows = list[Row]()
    try:
        for line in csv.DictReader(text.splitlines()):
            figures = {name: float(line[column]) for column, name in COLUMNS.items() if line.get(column)}
            known = {name: figure for name, figure in figures.items() if not math.isnan(figure)}
            rows.append({**known, **{name: int(known[name]) for name in _WHOLE}})
    except (ValueError, KeyError, TypeError, OverflowError, csv.Error):
        return []
    return rows


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a curve's file, as `parse_rows`."""
    return parse_rows(path.read_bytes().decode("utf-8", "replace")) if path.exists() else iter(())


def parse_rows(text: str) -> Iterator[Row]:
    """The rows that `as_text` gave, up to the first damaged one: a kill or a power cut leaves one at the end.

    Those after one in the middle count no more than if they had not been written yet: training goes on from its state,
    which carries the rows up to there, and writes them again.
    """
    for line in text.split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            return
        yield row


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _lasting(rows: Iterable[Row]) -> list[Row]:
    kept = [{name: value for name, value in row.items() if not name.startswith(_OF_THE_MACHINE)} for row in rows]
    return [row for row in kept if row.keys() > {"step", "epoch"}]


def append_whole(descriptor: int, content: bytes) -> None:
    """Write all of `content` at the end of the file, or nothing."""
    end = os.fstat(descriptor).st_size
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.ftruncate(descriptor, end)
        raise
