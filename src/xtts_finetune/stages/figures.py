"""The figures in reports/."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xtts_finetune.core.files import published_file
from xtts_finetune.core.layout import PhaseName

TRAIN, EVAL, AVERAGE, TARGET = "#4c78a8", "#e4572e", "#9467bd", "#3a9a3a"
INK = "#808080"  # on no background: read on a white page and on a dark one
_SPLITS = {"eval_train": "train clips", "eval": "eval", "eval_ema": "eval of the EMA"}
_STYLE: dict[Any, str] = {f"{what}.color": INK for what in ("text", "xtick", "ytick")}
_STYLE |= {f"axes.{what}": INK for what in ("labelcolor", "edgecolor", "titlecolor")}


def draw_lengths(path: Path, train: Sequence[float], evaluation: Sequence[float]) -> None:
    """Histogram of the clips' lengths in seconds, by split."""
    with _figure(path, size=(7, 3.5)) as figure:
        axes = figure.subplots()
        labels = [f"train ({len(train)} clips)", f"eval ({len(evaluation)} clips)"]
        axes.hist([train, evaluation], bins=30, stacked=True, color=[TRAIN, EVAL], label=labels)
        axes.set(xlabel="length (s)", ylabel="clips", title="Accepted clips")
        axes.legend(frameon=False)


def draw_curves(path: Path, curves: Mapping[PhaseName, Path], base: Mapping[str, float], target: float | None) -> None:
    """Mel CE and Text CE of both phases over steps, with the base's Mel CE and the target.

    Args:
        curves: the CSV of each phase.
        base: `mel_ce` and `text_ce` of the base on the eval split.
    """
    with _figure(path, size=(10, 4.4)) as figure:
        axes = figure.subplots(1, 2)
        for measure, plot in zip(("mel_ce", "text_ce"), axes, strict=True):
            for phase, file in curves.items():
                rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
                _draw_phase(plot, phase, rows, measure)
            plot.axhline(base[measure], color=INK, lw=1, ls=":", label="base")
            plot.set(xlabel="step", ylabel="nats per token", title={"mel_ce": "Mel CE", "text_ce": "Text CE"}[measure])
        if target is not None:
            axes[0].axhline(target, color=TARGET, lw=1, ls="--", label=f"target Mel CE {target}")
        handles, labels = axes[0].get_legend_handles_labels()
        # below both, where no line runs
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=8)


def _draw_phase(axes: Axes, phase: PhaseName, rows: Sequence[Mapping[str, str]], measure: str) -> None:
    if phase != "phase1":
        axes.axvline(int(rows[0]["step"]), color=INK, lw=0.5)
    style = {"phase1": "-", "phase2": "--"}[phase]
    for split, colour, marker in ("eval_train", TRAIN, "none"), ("eval", EVAL, "o"), ("eval_ema", AVERAGE, "."):
        steps = [int(row["step"]) for row in rows]
        values = [float(row.get(f"{split}_{measure}") or "nan") for row in rows]  # before the first step, say
        if not all(map(math.isnan, values)):
            label = f"{_SPLITS[split]}, {phase}"
            axes.plot(steps, values, style, color=colour, marker=marker, ms=3.5, label=label)


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw on, written to `path` at the end: equal data, equal bytes."""
    with matplotlib.rc_context(_STYLE):
        figure = plt.figure(figsize=size, layout="constrained")
        yield figure
        with published_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=130, transparent=True, metadata={"Software": None})
        plt.close(figure)
